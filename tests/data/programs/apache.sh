# apache.sh MPM
modules=/usr/lib/apache2/modules
cat > apache.conf <<C
ServerRoot $PWD
ServerName localhost
LoadModule mpm_$1_module $modules/mod_mpm_$1.so
LoadModule authz_core_module $modules/mod_authz_core.so
Listen 127.0.0.1:8081
PidFile apache.pid
ErrorLog apache.log
DocumentRoot $PWD
DefaultRuntimeDir $PWD
Mutex default:$PWD
EnableMMAP Off
EnableSendfile Off
C
# With prefork it ends its whole process group.
setsid /usr/sbin/apache2 -f "$PWD/apache.conf" -DFOREGROUND & server=$!
sh "$PROGRAMS/ready.sh" python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8081))'
echo $server > ../pid
python3 "$PROGRAMS/fetch.py" http://127.0.0.1:8081/page page
kill -TERM $server
wait $server
echo "apache: $?"
rm -f apache.log apache.conf apache.pid
