// tools/launcher.cpp: what `regroup` starts as. It sets the environment that LibTorch's threads
// read while they are loaded, and becomes the program in libexec/, which has this process's id and
// arguments. It links no LibTorch, so `regroup --help` answers at once.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <string>

#include "tools/verbs/overview.h"

namespace {

namespace fs = std::filesystem;

// Beside the launcher in a build folder, else where `cmake --install` puts it.
constexpr const char* kProgramPlaces[] = {"libexec/regroup", REGROUP_INSTALLED_PROGRAM};

/// By default libgomp's threads spin for milliseconds at each barrier. On a busy machine the core
/// that they spin on is the one that the thread they wait for needs. What the user chose stays.
void let_threads_spin_briefly() {
  if (!std::getenv("OMP_WAIT_POLICY")) setenv("GOMP_SPINCOUNT", "1000", /*overwrite=*/0);
}

/// A standard stream that was closed would be the number of the next file that is opened, which
/// would then receive messages. Reading from stdin ends at once, writing to stdout fails.
void occupy_standard_streams() {
  for (const auto& [stream, flags] :
       {std::pair{STDIN_FILENO, O_RDONLY}, std::pair{STDOUT_FILENO, O_RDONLY},
        std::pair{STDERR_FILENO, O_WRONLY}}) {
    if (fcntl(stream, F_GETFD) == -1) open("/dev/null", flags);  // takes the lowest free number
  }
}

int fail(const std::string& message) {
  std::cerr << "regroup: error: " << message << std::endl;
  return 1;
}

bool asks_for_help(int argc, char** argv) {
  return argc > 1 && (std::strcmp(argv[1], "--help") == 0 || std::strcmp(argv[1], "-h") == 0);
}

int print_help() {
  std::cout << "regroup VERB [options]\n\n"
               "Turns multi-head attention checkpoints into grouped-query and multi-query ones, "
               "trains them on,\n"
               "and measures what that cost.\n\n";
  for (const auto& verb : regroup::kVerbs) {
    std::cout << "  " << std::left << std::setw(10) << verb.name << verb.summary << "\n";
  }
  std::cout
      << "\n  regroup VERB --help   the options of a verb, with an example\n"
         "  regroup --version     versions and devices\n\n"
         "Several processes train together under a launcher; torchrun needs the --:\n"
         "  torchrun --no-python --nproc-per-node 2 -- regroup uptrain --config FILE --run DIR\n";
  std::cout.flush();
  return std::cout ? 0 : fail("stdout: the help could not be written. Is the disk full?");
}

int become_program(char** argv) {
  std::error_code problem;
  const auto launcher = fs::read_symlink("/proc/self/exe", problem);
  if (problem) return fail("/proc/self/exe: " + problem.message() + ". Is /proc mounted?");
  for (const char* place : kProgramPlaces) {
    const auto program = launcher.parent_path() / place;
    execv(program.c_str(), argv);
    if (errno != ENOENT) return fail(program.string() + ": " + std::strerror(errno));
  }
  return fail(launcher.string() + ": the program " + kProgramPlaces[0] +
              " that belongs to it is missing. Build or install Regroup again; to put it on PATH, "
              "link to it or use `cmake --install`.");
}

}  // namespace

int main(int argc, char** argv) {
  occupy_standard_streams();
  if (asks_for_help(argc, argv)) return print_help();
  let_threads_spin_briefly();
  return become_program(argv);
}
