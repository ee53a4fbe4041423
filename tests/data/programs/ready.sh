# ready.sh COMMAND…: waits until the command succeeds; a server begins to listen when it does.
count=0
until "$@" > /dev/null 2>&1; do
    count=$((count + 1))
    [ $count -lt 600 ] || { echo "not within a minute: $*" >&2; exit 1; }
    sleep 0.1
done
