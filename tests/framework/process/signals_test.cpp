#include "framework/process/signals.h"

#include <sys/wait.h>
#include <unistd.h>

#include "framework/files/file_descriptor.h"
#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

TEST_CASE("the first SIGINT or SIGTERM only requests a stop", "[signals]") {
  const int signal_number = GENERATE(SIGINT, SIGTERM);
  const StopSignals signals;
  CHECK(!stop_requested());
  ::raise(signal_number);
  CHECK(stop_requested());
  ::raise(signal_number);  // an echo, as launchers send it
  CHECK(stop_requested());
}

TEST_CASE("the first signal prints the message at once, a second one does not", "[signals]") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const int own_stderr = ::dup(STDERR_FILENO);
  ::dup2(ends[1], STDERR_FILENO);
  {
    const StopSignals signals("stopping");
    ::raise(SIGINT);
    ::raise(SIGINT);
  }
  ::dup2(own_stderr, STDERR_FILENO);
  for (const int descriptor : {ends[1], own_stderr}) ::close(descriptor);
  char printed[64] = "";
  CHECK(::read(ends[0], printed, sizeof printed - 1) == 8);
  CHECK(printed == std::string("stopping"));
  ::close(ends[0]);
}

TEST_CASE("a new scope starts without a stop", "[signals]") {
  {
    const StopSignals signals;
    ::raise(SIGTERM);
  }
  const StopSignals signals;
  CHECK(!stop_requested());
}

TEST_CASE("outside of a scope a signal ends the process with 130 after its last words",
          "[signals]") {
  const int signal_number = GENERATE(SIGINT, SIGTERM);
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    end_on_signals([&] { write_all(ends[1], "cleaned up"); });
    { const StopSignals signals; }
    ::raise(signal_number);
    wait_if_ending();
    ::_exit(7);
  }
  ::close(ends[1]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 130);
  char printed[64] = "";
  CHECK(::read(ends[0], printed, sizeof printed - 1) == 10);
  CHECK(printed == std::string("cleaned up"));
  ::close(ends[0]);
}

TEST_CASE("a signal that is ignored at the start stays so", "[signals]") {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGINT, SIG_IGN);
    end_on_signals([] {});
    ::raise(SIGINT);
    wait_if_ending();
    ::_exit(7);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 7);
}

TEST_CASE("a second signal seconds after the first ends the process with 130", "[signals][slow]") {
  const pid_t child = ::fork();
  if (child == 0) {
    const StopSignals signals;
    ::raise(SIGINT);
    ::sleep(3);
    ::raise(SIGINT);
    ::_exit(7);  // reached only where the second signal is ignored
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 130);
}

}  // namespace
}  // namespace regroup
