"""Four threads, to whom the lines of the input are dealt out; their answers are put in order again."""
import hashlib
import queue
import sys
import threading

tasks, answers = queue.Queue(), {}


def work():
    while (task := tasks.get()) is not None:
        number, line = task
        value = line.encode()
        for _ in range(2000):
            value = hashlib.sha256(value).digest()
        answers[number] = value.hex()


threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for task in enumerate(sys.stdin):
    tasks.put(task)
for _ in threads:
    tasks.put(None)
for thread in threads:
    thread.join()
for number in range(len(answers)):
    print(number, answers[number])
