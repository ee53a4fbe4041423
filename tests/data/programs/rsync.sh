# A daemon is sent a tree over a wire that lets a portion through for each line of the input, and all at its end.
. "$PROGRAMS/server.sh"
cat > rsyncd.conf <<C
use chroot = false
pid file = $PWD/rsyncd.pid
[tree]
path = $PWD/to
read only = false
C
mkdir to
rsync --daemon --no-detach --port=8730 --address=127.0.0.1 --config=rsyncd.conf --log-file=log & server=$!
listens 8730
python3 "$PROGRAMS/wire.py" 8731 8730 < ../in & wire=$!
sh "$PROGRAMS/ready.sh" test -e wire
rsync -a --no-t --port=8731 from/ rsync://127.0.0.1/tree/ & client=$!
echo $client > ../pid
wait $client
echo "rsync: $?"
wait $wire
ends TERM daemon
rm -f log wire rsyncd.pid rsyncd.conf
