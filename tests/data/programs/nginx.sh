. "$PROGRAMS/server.sh"
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
listens 8082
is_fetched_from 8082
ends QUIT nginx
