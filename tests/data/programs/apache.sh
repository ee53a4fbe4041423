# apache.sh MPM
. "$PROGRAMS/server.sh"
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
listens 8081
is_fetched_from 8081
ends TERM apache
rm -f apache.log apache.conf apache.pid
