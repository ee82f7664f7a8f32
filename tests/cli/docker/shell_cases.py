"""Scripts of the shapes that repositories have. `«rule»` at a line's end says what must be found there; all else must stay quiet."""

from __future__ import annotations

CASES: dict[str, str] = {
    "cleanup.sh": r"""#!/usr/bin/env bash
# Usage: cleanup.sh   (never use `docker rm -f` here)
set -euo pipefail
docker rm -f web «forced-remove»
docker rm --force web db 2>/dev/null || true «forced-remove»
docker rm -fv web «forced-remove»
docker rm web -f «forced-remove»
docker container rm -f web «forced-remove»
docker kill web «kill»
docker container kill web «kill»
docker kill -s 9 web «kill»
docker kill --signal KILL web «kill»
docker kill --signal 09 web «kill»
docker stop -t 0 web «stop-without-grace»
docker stop --time=0 web «stop-without-grace»
docker restart --timeout 0 web «stop-without-grace»
docker volume rm -f data «forced-remove-volume»
docker rmi --force img:1 «forced-remove-image»
docker image rm -f img:1 «forced-remove-image»
docker network rm -f net «forced-remove-network»
docker system prune -f «prune-without-asking»
docker system prune -af --volumes «prune-without-asking»
docker volume prune --force «prune-without-asking»
docker container prune -f --filter until=24h «prune-without-asking»
docker -H tcp://build:2376 --tlsverify rm -f web «forced-remove»
docker --context ci container rm --force web «forced-remove»
/usr/bin/docker rm -f web «forced-remove»
DOCKER_HOST=ssh://ci docker kill web «kill»
podman rm -af «forced-remove»
podman pod rm --force p «forced-remove»
podman system reset --force «prune-without-asking»
nerdctl --namespace k8s.io rm -f web «forced-remove»
sudo nerdctl kill web «kill»
""",
    "safe.sh": r"""#!/bin/sh
docker stop web && docker rm web
docker stop -t 30 web
docker stop --time 10 web
docker rm web
docker rm -v web
docker rm -l web/db
docker rm --force=false web
docker rm -- -f
docker kill --signal=SIGHUP nginx
docker kill -s TERM web
docker kill -sUSR1 web
docker kill --signal "SIGTERM" web
docker kill --help
docker ps -f name=web
docker ps --filter status=exited -q | xargs -r docker rm
docker build -f Dockerfile.prod -t app .
docker logs -f web
docker inspect -f '{{.State.Running}}' web
docker exec web rm -f /tmp/lock
docker exec -it web kill -HUP 1
docker run --rm -v "$PWD:/w" alpine rm -rf /w/build
docker run --rm -f alpine kill
docker compose -f docker-compose.ci.yml -p ci down
docker compose -f docker-compose.ci.yml rm
docker compose --profile kill up -d
docker-compose -f kill.yml up -d --force-recreate
docker compose kill -s SIGHUP web
docker compose exec -T db rm -f /tmp/dump.sql
docker compose down --remove-orphans -t 30
docker compose down --dry-run -v
docker system prune
docker system df
docker volume ls -f dangling=true
docker volume rm data
docker builder prune -f
docker buildx rm --force builder1
docker image prune
docker service rm web
docker stop --time -1 web
echo "do not: docker rm -f web"
echo docker rm -f web
printf 'docker kill %s\n' web
log_info "stopping; docker kill is next"
warn docker kill web
grep -rn "docker rm -f" scripts/
git commit -m "replace docker kill by docker stop"
command -v docker kill >/dev/null
cat <<'USAGE'
  docker rm -f NAME    removes it
USAGE
: "docker rm -f"
rm -f docker.log
kill -9 "$pid"
apt-get install -y docker kill
if [ "$cmd" = "docker rm -f" ]; then exit 1; fi
[[ $line == *"docker kill"* ]] && echo found
case "$1" in
  docker) echo rm -f ;;
  "docker kill") echo no ;;
esac
msg='docker rm -f web'
echo "$msg"
docker() { echo "would run: docker $*"; }
""",
    "lines.sh": r"""#!/bin/bash
docker \ «forced-remove»
  rm \
  -f \
  web
docker run -d \
  --name web \
  nginx # docker rm -f web
if ! docker kill web; then «kill»
  echo "could not"
fi
for id in $(docker ps -aq); do docker rm -f "$id"; done «forced-remove»
while read -r id; do
  docker rm --force "$id" «forced-remove»
done < <(docker ps -aq)
docker ps -aq | xargs --no-run-if-empty docker rm -f «forced-remove»
docker ps -q | xargs -r -n1 -I{} docker kill {} «kill»
docker ps -q |
  # all of them
  xargs docker stop -t 0 «stop-without-grace»
docker rm -f $(docker ps -aq) «forced-remove»
docker rm $(docker kill web) «kill»
OUT="$(docker kill web 2>&1)" «kill»
OUT=`docker rm -f web` «forced-remove»
docker ps -aq | while read c; do docker rm -f $c; done «forced-remove»
parallel docker kill ::: a b «kill»
parallel -j4 'docker kill {}' ::: a b «kill»
find . -name '*.cid' -exec docker rm -f {} + «forced-remove»
( cd deploy && docker compose down -v ) «compose-down-volumes»
{ docker kill web; } || : «kill»
cleanup() { docker rm -f "$cid" > /dev/null; } «forced-remove»
trap 'docker rm -f "$cid"' EXIT INT «forced-remove»
trap "docker compose down --volumes" EXIT «compose-down-volumes»
trap cleanup EXIT
[ -n "$cid" ] && docker rm -f "$cid" «forced-remove»
[[ "$a" =~ ^(x|y)$ && -n $b ]] && docker kill web «kill»
(( n > 3 )) && docker kill web «kill»
x=$(( 1 << 3 )); docker kill web «kill»
docker kill web & «kill»
case $1 in stop) docker kill web ;; esac «kill»
case "$1" in
  start|up) docker start web ;;
  stop) «»
    docker stop web
    docker rm -f web «forced-remove»
    ;;
esac
""",
    "nested.sh": r"""#!/bin/bash
sh -c "docker kill web" «kill»
bash -lc 'cd /srv && docker compose down -v' «compose-down-volumes»
bash -euo pipefail -c '
  echo first
  docker rm -f web «forced-remove»
'
sudo -u deploy bash -c "docker rm -f web" «forced-remove»
timeout 30 docker kill web «kill»
timeout -k 5s 30s docker stop -t0 web «stop-without-grace»
nice -n 10 docker system prune -af «prune-without-asking»
env DOCKER_HOST=x docker rm -f web «forced-remove»
nohup docker kill web >/dev/null 2>&1 & «kill»
retry 3 docker rm -f web «forced-remove»
eval "docker rm -f $names" «forced-remove»
ssh -i key.pem -o StrictHostKeyChecking=no deploy@host docker rm -f web «forced-remove»
ssh host "docker pull x && docker stop -t 0 web && docker run -d x" «stop-without-grace»
ssh host <<'REMOTE'
cd /srv
docker compose down -v «compose-down-volumes»
REMOTE
ssh host bash -s <<-EOF
	docker kill web «kill»
	EOF
cat > /usr/local/bin/clean.sh <<'EOF'
#!/bin/sh
docker rm -f web «forced-remove»
EOF
cat > notes.md <<'EOF'
docker rm -f web
EOF
echo "docker rm -f web" | bash «forced-remove»
echo "docker rm -f web" | tee notes.txt
yes | docker system prune -a «prune-without-asking»
echo y | docker volume prune «prune-without-asking»
docker exec dind docker rm -f web «forced-remove»
docker exec ci sh -c "docker kill web" «kill»
docker run --rm -v /var/run/docker.sock:/var/run/docker.sock docker:cli docker rm -f web «forced-remove»
docker run -d --stop-timeout 0 --name x img «stop-without-grace»
docker run -d --stop-signal SIGKILL img «kill-as-stop-signal»
docker create --stop-timeout=0 img «stop-without-grace»
docker run -d --stop-timeout 60 --stop-signal SIGQUIT img
alias dclean='docker rm -f $(docker ps -aq)' «forced-remove»
watch -n 5 'docker kill web' «kill»
su - deploy -c "docker kill web" «kill»
curl -s --unix-socket /var/run/docker.sock -X DELETE "http://localhost/v1.43/containers/web?v=1&force=true" «forced-remove»
curl --unix-socket /var/run/docker.sock -X POST http://localhost/containers/web/kill «kill»
curl --unix-socket /var/run/docker.sock -X POST "http://localhost/containers/web/stop?t=0" «stop-without-grace»
curl --unix-socket /var/run/docker.sock http://localhost/containers/json
curl -X POST --unix-socket /var/run/docker.sock "http://localhost/containers/web/kill?signal=SIGHUP"
curl -X DELETE --unix-socket /var/run/docker.sock http://localhost/containers/web
""",
    "variables.sh": r"""#!/bin/bash
DOCKER=docker
$DOCKER rm -f web «forced-remove»
DOCKER="sudo docker"
${DOCKER} kill web «kill»
"${CONTAINER_ENGINE:-docker}" rm -f web «forced-remove»
ENGINE=${ENGINE:-podman}
$ENGINE rm --force web «forced-remove»
COMPOSE="docker compose -f ci.yml"
$COMPOSE down -v «compose-down-volumes»
$COMPOSE up -d
FORCE=
if [ "$1" = now ]; then FORCE=-f; fi
docker rm $FORCE web «forced-remove»
opts=(--force --volumes)
docker rm "${opts[@]}" web «forced-remove»
args=(rm)
args+=(-f)
docker "${args[@]}" web «forced-remove»
cmd="docker kill web"
$cmd «kill»
eval $cmd «kill»
docker stop -t "$GRACE" web
GRACE=0
docker stop -t "$GRACE" web «stop-without-grace»
docker stop -t "${WAIT:-0}" web «stop-without-grace»
docker stop -t "${WAIT:-10}" web
docker kill -s "$SIGNAL" web
docker rm "$OPTS" web
$UNKNOWN rm -f web
readonly NAME=web
docker rm "$NAME"
""",
    "compose.sh": r"""#!/bin/sh
docker-compose down -v «compose-down-volumes»
docker compose -f a.yml -f b.yml --env-file .env -p ci down --volumes --remove-orphans «compose-down-volumes»
docker compose down -t 0 «stop-without-grace»
docker compose down -v --timeout 0 «compose-down-volumes» «stop-without-grace»
docker compose rm -f «compose-forced-remove»
docker compose rm -fsv web «compose-forced-remove»
docker-compose -p ci rm --stop --force «compose-forced-remove»
docker compose kill «kill»
docker compose -f ci.yml kill web «kill»
docker compose kill -s SIGKILL «kill»
docker compose stop -t 0 «stop-without-grace»
docker compose restart -t0 web «stop-without-grace»
podman-compose down -v «compose-down-volumes»
podman compose kill «kill»
nerdctl compose down -v «compose-down-volumes»
docker compose exec db docker kill x «kill»
docker compose run --rm web rm -f x
docker compose logs -f --tail 10
docker compose stop
docker compose rm
docker compose up -d --remove-orphans -V
docker compose build --force-rm
""",
    "allowed.sh": r"""#!/bin/sh
docker rm -f scratch # isomon: allow forced-remove -- it holds nothing and nobody talks to it
# isomon: allow kill -- the test is about being killed
docker kill web
docker kill other «kill»
docker rm -f web # isomon: allow forced-remove «forced-remove» «suppression-without-reason»
docker rm -f web # isomon: allow kill -- another rule «forced-remove»
docker rm -f web # isomon: allow all -- there is no such rule «forced-remove» «suppression-without-reason»
docker \
  rm -f web # isomon: allow forced-remove -- inside the command's lines
""",
    "bin/deploy": r"""#!/usr/bin/env bash
docker rm -f web «forced-remove»
""",
    "bin/readme": "docker rm -f web\n",
    "README.md": "Run `docker rm -f web`.\n\n```sh\ndocker rm -f web\n```\n",
    "notes.txt": "docker kill web\n",
    "clean.sh.j2": "#!/bin/sh\ndocker rm -f {{ name }} «forced-remove»\n{% if x %}\ndocker kill {{ name }} «kill»\n{% endif %}\n",
    "clean.ps1": r"""<#
docker rm -f web
#>
# docker rm -f web
docker rm -f $(docker ps -aq) «forced-remove»
docker ps -aq | ForEach-Object { docker kill $_ } «kill»
docker stop `
  -t 0 web
Write-Host "docker rm -f web"
& docker.exe rm --force web «forced-remove»
docker run -v "C:\data\:/data" app
docker system prune -a -f «prune-without-asking»
""".replace("docker stop `", "docker stop ` «stop-without-grace»"),
    "clean.bat": r"""@echo off
rem docker rm -f web
:: docker rm -f web
docker rm -f web «forced-remove»
FOR /f "tokens=*" %%i IN ('docker ps -aq') DO docker rm -f %%i «forced-remove»
docker kill %NAME% «kill»
echo docker kill web
docker stop web & docker rm web
""",
    "web.service": r"""[Service]
# ExecStop=/usr/bin/docker kill web
ExecStartPre=-/usr/bin/docker rm -f web «forced-remove»
ExecStartPre=-/usr/bin/docker kill web «kill»
ExecStart=/usr/bin/docker run --rm --name web \
  nginx
ExecStop=/usr/bin/docker stop -t 10 web
ExecStopPost=/bin/sh -c 'docker rm -f web || true' «forced-remove»
""",
    "wrappers.sh": r"""
dc() { docker compose -f ci.yml -p "ci-$JOB" "$@"; }
dc logs -f
dc down -v «compose-down-volumes»
function engine {
  sudo docker "$@"
}
engine ps -f name=web
engine rm -f web «forced-remove»
say() { echo "+ $*"; "$@"; }
cat > /etc/cron.d/clean <<'CRON'
# docker rm -f is not here
0 3 * * * root docker system prune -af «prune-without-asking»
CRON
cat <<END
0 3 * * * root docker system prune -af
END
""",
}
