"""Dockerfiles, Makefiles and justfiles of the shapes that repositories have; see `shell_cases`."""

from __future__ import annotations

CASES: dict[str, str] = {
    "Dockerfile": r"""
# RUN docker rm -f web
FROM docker:cli AS x
RUN docker info && docker rm -f web  «forced-remove»
RUN --mount=type=cache,target=/x \
    # a comment between
    docker \ «kill»
    kill web
RUN apt-get update \
 && rm -f /var/lib/docker.log
RUN <<EOF
docker kill web  «kill»
EOF
STOPSIGNAL SIGKILL  «kill-as-stop-signal»
STOPSIGNAL SIGQUIT
ENTRYPOINT ["docker", "kill", "web"]  «kill»
CMD ["sh", "-c", "docker rm -f web"]  «forced-remove»
HEALTHCHECK --interval=5s CMD docker kill web || exit 1  «kill»
LABEL note="docker rm -f web"
""",
    "Makefile": (
        "DOCKER ?= docker\n"
        "COMPOSE := $(DOCKER) compose -f ci.yml\n"
        "# docker rm -f web\n"
        "HELP = docker rm -f web\n"
        "clean: ## docker rm -f web\n"
        "\t-docker rm -f web «forced-remove»\n"
        "\t@docker rm -f web > /dev/null 2>&1 || true «forced-remove»\n"
        "\t$(DOCKER) kill web «kill»\n"
        "\t${COMPOSE} down -v «compose-down-volumes»\n"
        "\t@$(COMPOSE) down\n"
        "\tdocker rm -f $$(docker ps -aq) «forced-remove»\n"
        "\tdocker ps -aq | \\\n"
        "\t  xargs docker rm -f «forced-remove»\n"
        "\t@echo docker rm -f web\n"
        "\t# docker rm -f web\n"
        "\tdocker stop web && docker rm web\n"
        "one: ; docker kill web «kill»\n"
        "IDS := $(shell docker kill web) «kill»\n"
        "ifdef CI\n"
        "\t$(PODMAN) rm -f web «forced-remove»\n"
        "endif\n"
        "define reset\n"
        "docker system prune -af «prune-without-asking»\n"
        "endef\n"
    ),
    "rules.mk": "clean:\n\tfor c in a b; do \\\n\t  docker kill $$c; \\\n\tdone\n".replace("kill $$c; \\", "kill $$c; \\ «kill»"),
    "justfile": (
        "engine := 'docker'\n# docker rm -f web\nclean name:\n"
        "    docker rm -f {{name}} «forced-remove»\n    @docker stop web\n    -docker kill web «kill»\n"
    ),
    "pyproject.toml": r"""
[project]
description = "docker rm -f"
[tool.poe.tasks]
clean = "docker rm -f test-db" #«forced-remove»
stop = "docker stop test-db"
down = { shell = "docker compose down -v" } #«compose-down-volumes»
several = [
  "docker ps",
  "docker volume prune -f", #«prune-without-asking»
]
""",
    "tox.ini": r"""
[testenv:clean]
description = docker rm -f
commands =
    docker compose down
    - docker rm -f testdb «forced-remove»
""",
    "main.tf": r"""
resource "null_resource" "app" {
  # command = "docker rm -f app"
  provisioner "local-exec" {
    command = "docker rm -f app" #«forced-remove»
  }
  provisioner "remote-exec" {
    inline = [
      "docker stop web",
      "docker kill web", #«kill»
    ]
  }
  provisioner "local-exec" {
    command = <<-EOT
      docker pull app
      docker rm -f old «forced-remove»
    EOT
  }
  description = "docker rm -f"
}
""",
    "Procfile": r"""
web: docker compose up
clean: docker rm -f web «forced-remove»
""",
    "cron.d/clean": r"""
SHELL=/bin/sh
# 0 3 * * * root docker rm -f web
*/5 * * * * root docker ps
0 3 * * 1-5 root docker system prune -af «prune-without-asking»
@daily docker kill web «kill»
""",
    "clean.ps1": r"""
Start-Process docker -ArgumentList "kill $Name" -Wait #«kill»
Start-Process -FilePath "docker" -ArgumentList @("rm", "-f", $Name) #«forced-remove»
Start-Process docker -ArgumentList "stop $Name"
""",
}
