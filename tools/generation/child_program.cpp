#include "tools/generation/child_program.h"

#include <c10/util/StringUtil.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <sstream>

#include "framework/errors/error.h"

extern char** environ;

namespace regroup {
namespace {

struct Pipe {
  FileDescriptor read_end, write_end;
};

/// Its ends are closed in child processes.
Pipe make_pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    throw Error("pipe", std::strerror(errno), "Are too many files open?");
  return {FileDescriptor(ends[0]), FileDescriptor(ends[1])};
}

/// Returns 0, or the system's reason why the program cannot run.
int spawn(const std::vector<std::string>& words, const Pipe& requests, const Pipe& answers,
          pid_t* id) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, requests.read_end.value(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, answers.write_end.value(), STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // A new process group: a terminal sends Ctrl-C to the foreground group alone.
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  std::vector<char*> argv;
  for (const auto& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const int failure = posix_spawn(id, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return failure;
}

}  // namespace

ChildProgram::ChildProgram(const std::vector<std::string>& words, const std::string& advice) {
  auto requests = make_pipe(), answers = make_pipe();
  if (const int failure = spawn(words, requests, answers, &id_)) {
    throw request_error(words[0], c10::str("cannot run (", std::strerror(failure), ")"), advice);
  }
  requests_ = std::move(requests.write_end);
  answers_ = std::move(answers.read_end);
}

ChildProgram::~ChildProgram() {
  requests_ = FileDescriptor();
  while (waitpid(id_, nullptr, 0) < 0 && errno == EINTR) continue;
}

std::optional<Message> ChildProgram::ask(const Message& request) {
  const auto header = c10::str(request.kind, " ", request.body.size(), "\n");
  if (!write_all(requests_.value(), header + request.body)) return std::nullopt;
  std::string answered;
  while (!answered.ends_with('\n')) {
    const auto byte = read(1);
    if (!byte) return std::nullopt;
    answered += *byte;
  }
  std::istringstream words(answered);
  Message answer;
  size_t size = 0;
  if (!(words >> answer.kind >> size)) return std::nullopt;
  auto body = read(size);
  if (!body) return std::nullopt;
  answer.body = std::move(*body);
  return answer;
}

std::optional<std::string> ChildProgram::read(size_t n_bytes) {
  std::string bytes(n_bytes, '\0');
  size_t n_read = 0;
  while (n_read < n_bytes) {
    const ssize_t count = ::read(answers_.value(), bytes.data() + n_read, n_bytes - n_read);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return std::nullopt;
    n_read += static_cast<size_t>(count);
  }
  return bytes;
}

}  // namespace regroup
