# sh run.sh PREPARE RUN PLACE…: runs a program unmoved, then once more by way of the places, and compares.
#
# PREPARE makes, in an empty directory, what RUN finds in its own, and in ../data what RUN reads. Both are shell
# scripts, and know the octets that the input is to have as $SIZE and this folder as $PROGRAMS. RUN writes into
# ../pid what is to be moved, once that is at work. Its input comes in portions, each before a move and the last
# one after all of them: what reads to the end of its input cannot have ended before it has moved.
set -eu
prepare=$1 run=$2
shift 2
PROGRAMS=$(dirname "$(readlink -f "$0")")
export PROGRAMS SIZE LC_ALL=C.UTF-8
rm -rf ~/trial
mkdir -p ~/trial/unmoved
cd ~/trial
: > data
mkfifo in pid
(cd unmoved && eval "$prepare")
cp -a unmoved moved
exec 4<> pid

# What it has left, if the rest does not go as it should.
last_words() {
    for file in moved/status moved/err moved/out; do
        [ ! -s $file ] || { echo "$file:"; tail -n 20 $file | tail -c 2000; echo; }
    done
}

# Runs it in the directory $1, and moves it to each of the places that follow. What fails ends it, and its input.
go() (
    cd "$1"
    shift
    {
        status=0
        sh -c "$run" < ../in > out 2> err 4>&- || status=$?
        echo $status > status
        echo ended >&4
    } &
    exec 3> ../in 5< ../data
    read -r pids <&4
    portion=$(($(stat -c %s ../data) / ($# + 1)))
    for place; do
        head -c $portion <&5 >&3 || exit
        for pid in $pids; do
            answer=$(migrate "$pid" "$place") || exit
            away=$(migrate --list | grep -c ^away || true)
            echo "$place $away $(ls "/proc/$pid/task" | wc -l) $answer"
        done
    done
    cat <&5 >&3 || exit
    exec 3>&-
    wait
    [ "$pids" = ended ] || read -r _ended <&4
)

go unmoved
go moved "$@" || { last_words; exit 1; }
diff -r unmoved moved || { last_words; exit 1; }
# Awk is told to end with 3. With another status a program has not worked, moved or not.
case $(cat moved/status) in
    0 | 3) echo same ;;
    *) last_words; exit 1 ;;
esac
