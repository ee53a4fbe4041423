# Sourced by what runs a server, whose id is in $server.

# listens PORT: waits until it does.
listens() {
    sh "$PROGRAMS/ready.sh" python3 -c 'import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1])))' "$1"
}

# is_loaded CLIENT…: lets the clients, which look for the file `enough`, work until the input ends, and waits for them.
is_loaded() {
    echo $server > ../pid
    cat > rest
    : > enough
    wait "$@"
}

# is_fetched_from PORT: its page is fetched until the input ends.
is_fetched_from() {
    echo $server > ../pid
    python3 "$PROGRAMS/fetch.py" "http://127.0.0.1:$1/page" page
}

# ends SIGNAL NAME: ends it, and says with which status it does.
ends() {
    kill "-$1" $server
    wait $server
    echo "$2: $?"
}
