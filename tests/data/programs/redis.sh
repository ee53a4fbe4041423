# redis-benchmark counts and pushes until the input ends; then all that it did has to be there.
. "$PROGRAMS/server.sh"
redis-server --port 6399 --save '' --dir . --appendonly yes > log & server=$!
client="redis-cli -p 6399"
sh "$PROGRAMS/ready.sh" $client ping
{
    until [ -e enough ]; do
        redis-benchmark -p 6399 -q -c 20 -n 2000 -P 4 incr counter > said 2>&1 || cat said
        redis-benchmark -p 6399 -q -c 20 -n 2000 -P 4 rpush list value > said 2>&1 || cat said
        rounds=$((rounds + 1))
        echo $rounds > rounds
    done
} & clients=$!
is_loaded $clients
[ "$($client get counter)" = $(($(cat rounds) * 2000)) ] && echo counted
[ "$($client llen list)" = $(($(cat rounds) * 2000)) ] && echo pushed
ends TERM redis-server
rm -rf appendonlydir log said rounds
