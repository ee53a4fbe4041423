# On a terminal: pipelines, traps, and jobs that stop and go on, for each line that is typed. No loop, for bash leaves
# a loop in which a job stops.
set -m
stty -echo
trap 'echo told' USR1

rounds() {
    read -r line
    [ "$line" != end ] || return
    echo "line $line"
    seq "$line" | sed s/1/x/ | tr 2 y | sort | tail -n 3
    sh -c 'kill -STOP $$; exec sleep 1000' &
    wait %1
    echo "stopped: $?"
    bg > /dev/null
    kill -TERM %1
    wait %1
    echo "killed: $?"
    sh -c 'kill -TSTP $$; echo goes on; exit 7'
    echo "stopped itself: $?"
    fg > /dev/null
    echo "ended: $?"
    (exit $((line % 7)))
    echo "status: $?"
    kill -USR1 $$
    rounds
}

echo $$ > ../pid
rounds 2> /dev/null
echo "end"
