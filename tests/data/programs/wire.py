"""wire.py FROM TO: passes what comes at one port on to another, a portion for each line of the input, and all at its end."""
import socket
import sys
import threading

PORTION = 1 << 16
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
open("wire", "w").close()
client, _ = listener.accept()
server = socket.create_connection(("127.0.0.1", int(sys.argv[2])))


def back():
    while part := server.recv(PORTION):
        client.sendall(part)
    client.shutdown(socket.SHUT_WR)


answers = threading.Thread(target=back)
answers.start()
while part := client.recv(PORTION):
    sys.stdin.buffer.readline()
    server.sendall(part)
server.shutdown(socket.SHUT_WR)
answers.join()
