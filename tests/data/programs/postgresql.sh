# Four clients of pgbench write until the input ends; then every change has to be in the sums.
. "$PROGRAMS/server.sh"
bin=$(ls -d /usr/lib/postgresql/*/bin)
"$bin/initdb" -D data -A trust -N > /dev/null
"$bin/postgres" -D data -k "$PWD" -h '' 2> log & server=$!
export PGHOST=$PWD PGDATABASE=postgres
sh "$PROGRAMS/ready.sh" psql -c 'select 1'
"$bin/pgbench" -i -q -s 2 2> /dev/null
{
    until [ -e enough ]; do
        "$bin/pgbench" -n -c 4 -j 2 -t 50 > said 2>&1 || cat said
        grep 'failed transactions: [^0]' said
        cat said >> all
    done
} & clients=$!
is_loaded $clients
psql -Atc 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)'
psql -Atc 'select count(*) % 200 from pgbench_history'
ends INT postgres
rm -rf data log said all
