cat > nginx.conf <<C
daemon off; pid nginx.pid; worker_processes 2;
events {}
http {
    access_log off; limit_req_zone \$uri zone=shared:1m rate=100000r/s;
    client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
    server { listen 127.0.0.1:8082; root .; limit_req zone=shared burst=10000 nodelay; }
}
C
/usr/sbin/nginx -p . -e error.log -c nginx.conf & server=$!
sh "$PROGRAMS/ready.sh" python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8082))'
echo $server > ../pid
python3 "$PROGRAMS/fetch.py" http://127.0.0.1:8082/page page
kill -QUIT $server
wait $server
echo "nginx: $?"
