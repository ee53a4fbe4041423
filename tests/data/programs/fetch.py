"""fetch.py URL FILE: four clients fetch a file again and again until the input ends, and tell what was not as it is."""
import http.client
import sys
import threading
import urllib.request

url, file = sys.argv[1:]
right = open(file, "rb").read()
ended, fetched, wrong = threading.Event(), [0] * 4, []


def fetch(client):
    while not ended.is_set() or not fetched[client]:
        try:
            answer = urllib.request.urlopen(url, timeout=60).read()
            if answer != right:
                wrong.append("%d octets" % len(answer))
        except (OSError, http.client.HTTPException) as error:
            wrong.append(repr(error))
        fetched[client] += 1


clients = [threading.Thread(target=fetch, args=(client,)) for client in range(4)]
for client in clients:
    client.start()
sys.stdin.read()
ended.set()
for client in clients:
    client.join()
print("all have fetched:", all(fetched))
print(len(wrong), "wrong", *wrong[:5])
