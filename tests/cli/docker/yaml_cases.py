"""Compose files, workflows and other YAML of the shapes that repositories have; see `shell_cases`."""

from __future__ import annotations

CASES: dict[str, str] = {
    "docker-compose.yml": r"""
x-base: &base
  restart: unless-stopped
  stop_grace_period: 0s  «stop-without-grace»
services:
  web:
    <<: *base
    image: nginx
    stop_grace_period: 30s
  db:
    image: postgres
    stop_grace_period: 0s  «stop-without-grace»
    stop_signal: SIGKILL  «kill-as-stop-signal»
  cache:
    stop_signal: SIGQUIT
    stop_grace_period: 1m30s
  other: {image: x, stop_grace_period: "0"}  «stop-without-grace»
  again:
    <<: *base
  reaper:
    image: docker:cli
    command: sh -c "docker rm -f $$(docker ps -aq)"  «forced-remove»
  killer:
    image: docker:cli
    command: ["docker", "kill", "web"]  «kill»
    # command: docker rm -f web
  waiter:
    entrypoint:
      - sh
      - -c
      - |
        sleep 5
        docker kill web  «kill»
  fine:
    command: ["sh", "-c", "rm -f /tmp/docker"]
    healthcheck:
      test: ["CMD-SHELL", "kill -0 1"]
    labels:
      note: docker rm -f web
    environment:
      COMMAND: docker rm -f web
""",
    ".github/workflows/ci.yml": r"""
name: docker rm -f
on: [push]
jobs:
  test:
    runs-on: ubuntu-latest
    services:
      redis: {image: redis}
    steps:
      - uses: actions/checkout@v4
      - name: Never docker kill
        run: docker rm -f web || true  «forced-remove»
      - run: |
          docker compose up -d
          make test

          docker compose down -v  «compose-down-volumes»
      - if: always()
        run: |
          # docker rm -f web
          docker ps -aq | xargs -r docker rm -f  «forced-remove»
          docker stop ${{ inputs.name }} && docker rm ${{ inputs.name }}
          docker kill ${{ steps.x.outputs.id }}  «kill»
      - run: >
          docker system prune
          --all «»
          --force
      - run: >-
          docker
          stop web
      - shell: python
        run: |
          import subprocess
          subprocess.run(["docker", "kill", "web"])  «kill»
      - uses: actions/github-script@v7
        with:
          script: |
            const { execSync } = require('child_process');
            execSync('docker rm -f web');  «forced-remove»
      - run: docker builder prune -af
      - run: echo "docker rm -f web" >> $GITHUB_STEP_SUMMARY
""".replace("          docker system prune\n", "          docker system prune  «prune-without-asking»\n"),
    ".gitlab-ci.yml": r"""
.clean: &clean
  - docker rm -f web  «forced-remove»
stages: [test]
services:
  - docker:dind
test:
  stage: test
  before_script:
    - docker info
    - *clean
  script:
    - make
    - docker compose -f ci.yml down --volumes  «compose-down-volumes»
    - |
      docker kill web  «kill»
      echo done
    - !reference [.clean, script]
    - 'docker stop -t 0 web'  «stop-without-grace»
    - docker stop web
  after_script:
    - [docker kill a, docker kill b]  «kill»
  variables:
    X: docker kill web
""",
    ".circleci/config.yml": r"""
version: 2.1
jobs:
  build:
    docker: [{image: cimg/base}]
    steps:
      - run: docker kill web  «kill»
      - run:
          name: docker kill web
          command: |
            docker rm -f web  «forced-remove»
""",
    "azure-pipelines.yml": r"""
steps:
  - script: docker rm -f web  «forced-remove»
    displayName: docker rm -f web
  - bash: |
      docker kill web  «kill»
  - task: Bash@3
    inputs:
      targetType: inline
      script: docker system prune -f  «prune-without-asking»
""",
    "playbook.yml": r"""
- hosts: all
  tasks:
    - name: docker rm -f web
      ansible.builtin.shell: docker rm -f web  «forced-remove»
    - command: docker kill {{ name }}  «kill»
    - shell:
        cmd: docker compose down -v  «compose-down-volumes»
    - community.docker.docker_container:
        name: web
        state: absent
        force_kill: true  «kill»
    - community.docker.docker_container: {name: web, state: absent}
    - docker_compose_v2:
        project_src: /srv
        state: absent
        remove_volumes: true  «compose-down-volumes»
    - community.docker.docker_prune:  «prune-without-asking»
        containers: true
""",
    "Taskfile.yml": r"""
version: '3'
tasks:
  clean:
    cmds:
      - docker rm -f web  «forced-remove»
      - cmd: docker kill web  «kill»
        ignore_error: true
      - task: other
  fine:
    desc: docker rm -f web
    cmds: [docker stop web]
""",
    "chart/templates/job.yaml": r"""
{{- if .Values.enabled }}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}
spec:
  template:
    spec:
      containers:
        - name: x
          command: ["docker", "rm", "-f", "web"]  «forced-remove»
{{- end }}
""",
    "package.json": '{\n\t"name": "x",\n\t"description": "docker rm -f web",\n\t"scripts": {\n'
    '\t\t"start": "docker compose up",\n\t\t"clean": "docker compose down -v && rimraf dist", «compose-down-volumes»\n'
    '\t\t"stop": "docker stop web",\n\t\t"kill": "docker kill web" «kill»\n\t}\n}\n',
    "values.yaml": r"""
image: docker
note: docker rm -f web
list: [docker, kill, web]
""",
    "bitbucket-pipelines.yml": r"""
pipelines:
  default:
    - step:
        name: docker rm -f is not used
        script: [docker-compose up -d]
        after-script:
          - docker-compose down -v «compose-down-volumes»
""",
    "azure-pwsh.yml": r"""
steps:
  - pwsh: docker kill web «kill»
    displayName: docker kill web
""",
    "cloud-init.yaml": r"""
#cloud-config
runcmd:
  - docker rm -f agent || true «forced-remove»
write_files:
  - path: /etc/cron.daily/clean
    content: |
      #!/bin/sh
      docker system prune -af «prune-without-asking»
  - path: /etc/motd
    content: never docker rm -f
""",
    ".devcontainer/devcontainer.json": r"""
{
  // docker rm -f
  "name": "docker rm -f",
  "initializeCommand": "docker rm -f devdb || true", «forced-remove»
}
""",
}
