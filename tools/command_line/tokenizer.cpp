#include "tools/command_line/tokenizer.h"

#include <c10/util/StringUtil.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "framework/data/token_ids.h"
#include "framework/errors/error.h"
#include "framework/files/file_descriptor.h"

extern char** environ;

namespace regroup {
namespace {

constexpr int kNoPackage = 3;
constexpr int kRefused = 4;
constexpr const char* kUseTokens = "Give the prompt as ids, with --tokens 1,2,3.";

/// Arguments: encode or decode, and the path of tokenizer.json. The text or the ids come on stdin.
constexpr const char* kScript = R"(
import sys
action, path = sys.argv[1:]
given = sys.stdin.buffer.read()
try:
    from tokenizers import Tokenizer
except ImportError as error:
    print(error)
    sys.exit(3)
try:
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if action == "encode":
        result = " ".join(map(str, tokenizer.encode(given.decode("utf-8")).ids))
    else:
        result = tokenizer.decode([int(word) for word in given.split()])
    sys.stdout.buffer.write(result.encode("utf-8"))
except Exception as error:
    print(str(error).splitlines()[0])
    sys.exit(4)
)";

/// A pipe whose ends close themselves, and are closed in child processes.
class Pipe {
 public:
  Pipe() {
    if (pipe2(ends_, O_CLOEXEC) != 0)
      throw Error("pipe", std::strerror(errno), "Are too many files open?");
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  int read_end() const { return ends_[0]; }
  int write_end() const { return ends_[1]; }
  void close_end(int end) {
    if (ends_[end] >= 0) close(std::exchange(ends_[end], -1));
  }

 private:
  int ends_[2];
};

std::string read_all(int descriptor) {
  std::string text;
  char buffer[4096];
  while (true) {
    const ssize_t count = ::read(descriptor, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return text;
    text.append(buffer, static_cast<size_t>(count));
  }
}

struct Finished {
  int status;  // exit code, or -1 where the program could not run or was killed
  std::string output;
};

/// Runs a program, without a shell, that reads all of its input before it writes.
Finished run_program(const std::vector<std::string>& words, const std::string& input) {
  Pipe to_child, from_child;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to_child.read_end(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, from_child.write_end(), STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  std::vector<char*> argv;
  for (const auto& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_t child = 0;
  const int failure = posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failure != 0) return {-1, std::strerror(failure)};
  to_child.close_end(0);
  from_child.close_end(1);
  write_all(to_child.write_end(), input);  // a reader that leaves early says why in its exit status
  to_child.close_end(1);
  Finished finished{-1, read_all(from_child.read_end())};
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (WIFEXITED(status)) finished.status = WEXITSTATUS(status);
  return finished;
}

}  // namespace

Tokenizer::Tokenizer(const std::filesystem::path& model_folder)
    : file_(model_folder / "tokenizer.json") {
  if (std::filesystem::is_regular_file(file_)) return;
  throw request_error(model_folder.string(),
                      "holds no tokenizer.json, so text means nothing to the model", kUseTokens);
}

std::string Tokenizer::run(const std::string& action, const std::string& input) const {
  // -I: no module of the working directory or of the user's environment takes the package's place
  const auto [status, output] =
      run_program({REGROUP_PYTHON, "-I", "-c", kScript, action, file_.string()}, input);
  if (status == 0) return output;
  if (status == kRefused) {
    throw Error(file_.string(), "cannot " + action + ": " + output.substr(0, output.find('\n')),
                "Is the file a whole tokenizer.json, and the text UTF-8?");
  }
  const std::string reason = status == kNoPackage ? "has no tokenizers package" : "cannot run";
  throw request_error(
      REGROUP_PYTHON,
      c10::str(reason, output.empty() ? "" : " (" + output.substr(0, output.find('\n')) + ")"),
      kUseTokens);
}

std::vector<int64_t> Tokenizer::encode(const std::string& text) const {
  return parse_token_ids(run("encode", text), file_.string());
}

std::string Tokenizer::decode(const std::vector<int64_t>& ids) const {
  return run("decode", c10::Join(" ", ids));
}

}  // namespace regroup
