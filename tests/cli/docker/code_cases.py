"""JavaScript, TypeScript, Go, Groovy, Ruby and more of the shapes that repositories have; see `shell_cases`."""

from __future__ import annotations

CASES: dict[str, str] = {
    "clean.js": r"""
// execSync('docker rm -f web');
/* execSync('docker rm -f web'); */
const { exec, execSync, spawn, spawnSync } = require('child_process');
const cp = require('child_process');
const help = 'docker rm -f web';
execSync('docker rm -f web'); «forced-remove»
execSync("docker stop web && docker rm web");
exec(`docker kill ${name}`, (error) => { console.error('docker kill', error); }); «kill»
spawn('docker', ['rm', '-f', name], { stdio: 'inherit' }); «forced-remove»
spawnSync('docker', ['stop', '--time', '0', name]); «stop-without-grace»
spawn('docker', ['stop', '-t', '10', name]);
cp.execFileSync('docker', [ «forced-remove»
  'rm',
  '--force',
  name,
]);
console.log('docker rm -f web');
throw new Error('docker rm -f web');
const cmd = `docker compose -f ${file} down -v`; «compose-down-volumes»
execSync(cmd);
const args = ['kill', name];
spawn('docker', args); «kill»
cp.exec('docker ' + 'rm -f ' + name); «forced-remove»
await $`docker rm -f ${id}`; «forced-remove»
await execa('docker', ['compose', 'kill']); «kill»
await execa('docker', ['compose', 'stop']);
child.kill();
child.kill('SIGKILL');
fs.rmSync(dir, { recursive: true, force: true });
const re = /docker rm -f/; const half = a / b / c;
execSync('rm -f docker.log');
expect(log).toContain('docker rm -f web');
""",
    "engine.ts": r"""
import Docker from 'dockerode';
const docker = new Docker();
export async function clean(id: string, container: Docker.Container): Promise<void> {
  const box = docker.getContainer(id);
  await box.stop({ t: 10 });
  await box.remove();
  await box.remove({ v: true });
  await box.stop({ t: 0 }); «stop-without-grace»
  await box.kill(); «kill»
  await box.kill({ signal: 'SIGTERM' });
  await box.remove({ force: true }); «forced-remove»
  await container.remove({ v: true, force: true }); «forced-remove»
  await docker.getContainer(id).kill(); «kill»
  await docker.pruneContainers(); «prune-without-asking»
  await docker.pruneVolumes({ filters: {} }); «prune-without-asking»
  await docker.getVolume('x').remove({ force: true }); «forced-remove-volume»
  await docker.getImage('x').remove({ force: true }); «forced-remove-image»
  subprocess.kill();
  await rm('x', { force: true });
}
""",
    "clean.go": r"""
package main
// exec.Command("docker", "rm", "-f", id)
func clean(id string) {
	exec.Command("docker", "rm", "-f", id).Run() «forced-remove»
	exec.CommandContext(ctx, "docker", "kill", id).Run() «kill»
	exec.Command("sh", "-c", "docker rm -f "+id).Run() «forced-remove»
	exec.Command("docker", "stop", id).Run()
	fmt.Println("docker rm -f", id)
	runDocker(t, ctx, "rm", "-f", id) «forced-remove»
	runDocker(t, ctx, "run", "-d", "--rm", "--name", id, "postgres:17-alpine")
	cli.ContainerRemove(ctx, id, container.RemoveOptions{Force: true}) «forced-remove»
	cli.ContainerRemove(ctx, id, container.RemoveOptions{})
	cli.ContainerKill(ctx, id, "SIGKILL") «kill»
	cli.ContainerKill(ctx, id, "SIGHUP")
	cli.ContainersPrune(ctx, filters.Args{}) «prune-without-asking»
	cli.VolumeRemove(ctx, id, true) «forced-remove-volume»
	cmd.Process.Kill()
}
""",
    "Jenkinsfile": r"""
pipeline {
  // sh 'docker rm -f web'
  stages { stage('x') { steps {
    sh 'docker rm -f web || true' «forced-remove»
    sh "docker stop ${NAME}"
    sh(script: "docker kill ${NAME}", returnStatus: true) «kill»
    sh '''
      docker compose up -d
      docker compose down -v «compose-down-volumes»
    '''
    echo 'docker rm -f web'
    bat 'docker kill web' «kill»
  } } }
  post { always { sh "docker system prune -af" } } «prune-without-asking»
}
""",
    "clean.rb": r"""
# system("docker rm -f web")
system("docker rm -f web") «forced-remove»
system "docker kill #{name}" «kill»
system("docker", "rm", "-f", name) «forced-remove»
`docker rm -f web`
puts "docker rm -f web"
system("docker stop web")
%x(docker rm -f web) «forced-remove»
id = %x{docker kill $(docker ps -q --filter name=#{name})} «kill»
share = 100 %x
words = %w(docker rm -f web)
system "docker", "rm", "-f", name «forced-remove»
system "docker", «kill»
  "kill", name
system "docker", "stop", name
Open3.popen3("docker", "rm", "-f", name) { |_, out, _| out.read } «forced-remove»
container.kill «kill»
process.kill
""".replace("`docker rm -f web`", "`docker rm -f web` «forced-remove»"),
    "Clean.java": r"""
class Clean {
  void clean(String id) throws Exception {
    new ProcessBuilder("docker", "rm", "-f", id).start(); «forced-remove»
    Runtime.getRuntime().exec("docker kill " + id); «kill»
    Runtime.getRuntime().exec(new String[] {"docker", "rm", "-f", id}); «forced-remove»
    log.info("docker rm -f {}", id);
    command(false, logs.resolve("x.log"), "docker", "rm", "-f", id); «forced-remove»
    command(false, logs.resolve("x.log"), "docker", "network", "rm", network);
    new ProcessBuilder("docker", "stop", id).start();
  }
}
""",
    "clean.rs": r"""
fn clean(id: &str) {
    // Command::new("docker").args(["rm", "-f", id]);
    Command::new("docker").args(["rm", "-f", id]).status(); «forced-remove»
    Command::new("docker").arg("stop").arg(id).status();
    docker.kill_container::<String>(id, None).await?; «kill»
    let ids = all.iter().collect::<Vec<_>>();
    println!("docker rm -f");
    let x: &'static str = "docker kill";
}
""",
    "quoted.pl": r"""
# qx(docker rm -f web)
qx(docker rm -f web); «forced-remove»
my $out = qx{docker kill $name}; «kill»
my %qx = (docker => 1);
print "qx(docker rm -f web)";
qx/docker stop web/;
""",
    "charlists.ex": r"""
# :os.cmd('docker rm -f web')
:os.cmd('docker rm -f web') «forced-remove»
System.cmd("docker", ["kill", name]) «kill»
IO.puts('docker rm -f web')
""",
    "clean.php": r"""<?php
// exec("docker rm -f web");
exec("docker rm -f web"); «forced-remove»
shell_exec("docker kill $name"); «kill»
echo "docker rm -f web";
exec("docker stop web");
""",
    "grown.go": r"""
package x

func hard(ctx context.Context, name string) error {
	args := []string{"rm"}
	args = append(args, "-f", name)
	return exec.CommandContext(ctx, "docker", args...).Run() //«forced-remove»
}

func down(t *testing.T) {
	runCmd(t, "docker", "compose", "-f", "x.yml", "down", "-v") //«compose-down-volumes»
	t.Run("docker rm -f", func(t *testing.T) {})
}

func follow(name string) error {
	args := []string{"logs"}
	args = append(args, "-f", name)
	return exec.Command("docker", args...).Run()
}

func soft(name string) error {
	args := []string{"rm", name}
	if err := exec.Command("docker", args...).Run(); err != nil {
		return fmt.Errorf("try docker rm -f %s: %w", name, err)
	}
	return nil
}

func library(ctx context.Context, id string) {
	opts := container.RemoveOptions{
		RemoveVolumes: true,
		Force:         true,
	}
	cli.ContainerRemove(ctx, id, opts) //«forced-remove»
}

func librarySoft(ctx context.Context, id string) {
	opts := container.RemoveOptions{Force: false}
	cli.ContainerRemove(ctx, id, opts)
}
""",
    "options.js": r"""
const Docker = require("dockerode");
const docker = new Docker();
async function destroy(id) {
  const container = docker.getContainer(id);
  const options = { force: true, v: true };
  await container.remove(options); //«forced-remove»
}
async function gently(id) {
  const container = docker.getContainer(id);
  const options = { v: true };
  await container.remove(options);
}
""",
    "Engine.java": r"""
import com.github.dockerjava.api.DockerClient;
class Engine {
  void hard(DockerClient client, String id) {
    client.removeContainerCmd(id).withForce(true).withRemoveVolumes(true).exec(); //«forced-remove»
    client.killContainerCmd(id).exec(); //«kill»
    client.stopContainerCmd(id).withTimeout(0).exec(); //«stop-without-grace»
    new ProcessBuilder(List.of("docker", "rm", "-f", id)).start(); //«forced-remove»
  }
  void soft(DockerClient client, String id) {
    client.removeContainerCmd(id).withForce(false).exec();
    client.killContainerCmd(id).withSignal("SIGTERM").exec();
    client.stopContainerCmd(id).withTimeout(20).exec();
    client.listContainersCmd().withShowAll(true).exec();
  }
}
""",
    "Engine.cs": r"""
using Docker.DotNet;
class Engine {
  async Task Hard(IDockerClient client, string id) {
    await client.Containers.RemoveContainerAsync(id, new ContainerRemoveParameters { Force = true }); //«forced-remove»
    await client.Containers.KillContainerAsync(id, new ContainerKillParameters()); //«kill»
    await client.Containers.StopContainerAsync(id, new ContainerStopParameters { WaitBeforeKillSeconds = 0 }); //«stop-without-grace»
  }
  async Task Soft(IDockerClient client, string id) {
    await client.Containers.RemoveContainerAsync(id, new ContainerRemoveParameters { Force = false });
    await client.Containers.KillContainerAsync(id, new ContainerKillParameters { Signal = "SIGTERM" });
    await client.Containers.StopContainerAsync(id, new ContainerStopParameters { WaitBeforeKillSeconds = 30 });
  }
}
""",
    "tasks.gradle.kts": r"""
tasks.register<Exec>("dbDown") {
    commandLine("docker", "rm", "-f", "db") //«forced-remove»
}
tasks.register<Exec>("dbStop") {
    commandLine("docker", "stop", "db")
}
""",
    "wrapped.ts": r"""
const docker = (args: string[]) => spawnSync("docker", args);
docker(["rm", "-f", name]); //«forced-remove»
docker(["logs", "-f", name]);
execSync(["docker", "compose", "down", "-v"].join(" ")); //«compose-down-volumes»
await axios.delete(`http://localhost/containers/${id}?force=true`); //«forced-remove»
await axios.delete(`http://localhost/containers/${id}?v=1`);
""",
    "Start.cs": r"""
using System.Diagnostics;
class Start {
  void Hard(string id) {
    Process.Start("docker", $"rm -f {id}").WaitForExit(); //«forced-remove»
    var info = new ProcessStartInfo { FileName = "docker", Arguments = "kill " + id }; //«kill»
    Process.Start(new ProcessStartInfo("docker", "volume rm -f x")); //«forced-remove-volume»
  }
  void Soft(string id) {
    var process = Process.Start("docker", $"stop {id}");
    process.Kill();
    Console.WriteLine($"docker rm -f {id}");
  }
}
""",
    "builder.rs": r"""
use tokio::process::Command;
async fn hard(docker: &bollard::Docker, id: &str) {
    docker.remove_container(id, Some(RemoveContainerOptions { force: true, ..Default::default() })).await; //«forced-remove»
    docker.kill_container(id, None::<KillContainerOptions<String>>).await; //«kill»
    let mut cmd = Command::new("docker");
    cmd.args(&["kill", id]); //«kill»
    let mut child = Command::new("sleep").spawn();
    child.kill().await;
}
""",
    "clean.pl": r"""
# docker rm -f
system("docker", "rm", "-f", $name) == 0 or die "docker rm -f $name failed"; #«forced-remove»
system("docker stop $name");
`docker kill $name`; #«kill»
""",
    "clean.lua": r"""
-- docker rm -f
os.execute("docker rm -f " .. name) --«forced-remove»
print("docker rm -f")
""",
    "clean.ex": r"""
System.cmd("docker", ["rm", "-f", id]) #«forced-remove»
IO.puts("docker rm -f")
System.cmd("docker", ["stop", id])
""",
    "clean.dart": r"""
await Process.run('docker', ['rm', '-f', id]); //«forced-remove»
print('docker rm -f');
""",
    "clean.cpp": r"""
std::system("docker kill web"); //«kill»
std::cout << "docker kill web";
""",
    "run.groovy": r"""
"docker kill web".execute() //«kill»
println "docker kill web"
""",
}
