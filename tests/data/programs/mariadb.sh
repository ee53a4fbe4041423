# Four clients write until the input ends; then every change has to be in the sums. Debian's own setting has a
# ring for input and output (io_uring), with which a process stays at home.
. "$PROGRAMS/server.sh"
mariadb-install-db --no-defaults --datadir="$PWD/data" --auth-root-authentication-method=normal \
    --skip-test-db > log 2>&1 || cat log
/usr/sbin/mariadbd --no-defaults --datadir="$PWD/data" --socket="$PWD/socket" --skip-networking \
    --innodb-use-native-aio=0 >> log 2>&1 & server=$!
client="mariadb --no-defaults -uroot --socket=$PWD/socket"
sh "$PROGRAMS/ready.sh" $client -e 'select 1'
$client -e 'create database b; use b; create table h(d bigint); create table t(id int primary key, v bigint);
    insert into t select seq, 0 from seq_1_to_100'
for number in 1 2 3 4; do
    {
        count=0
        until [ -e enough ] && [ $count -gt 100 ]; do
            count=$((count + 1))
            echo "begin; update t set v = v + $count where id = $((count % 25 * 4 + number));
                insert into h values ($count); commit; select sum(v) from t where id < 50;"
        done | $client -n b > /dev/null
        echo "client: $?"
    } &
    clients="$clients $!"
done
is_loaded $clients
$client -BNe 'select sum(v) = (select sum(d) from b.h), (select count(*) from b.h) > 400 from b.t'
ends TERM mariadbd
rm -rf data log
