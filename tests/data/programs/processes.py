"""A pool of processes, which share memory and hand their answers back."""
import hashlib
import multiprocessing
import sys

done = multiprocessing.Value("i", 0)


def work(line):
    value = line.encode()
    for _ in range(2000):
        value = hashlib.sha256(value).digest()
    with done.get_lock():
        done.value += 1
    return value.hex()


with multiprocessing.Pool(3) as pool:
    for answer in pool.imap(work, sys.stdin):
        print(answer)
    print(done.value)
