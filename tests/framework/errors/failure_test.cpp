#include "framework/errors/failure.h"

#include <c10/util/Exception.h>

#include <filesystem>
#include <new>
#include <system_error>

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

template <typename Problem>
Failure described(const Problem& problem) {
  return describe_failure(std::make_exception_ptr(problem));
}

c10::Error torch_error(const std::string& message) {
  return {c10::SourceLocation{"function", "file.cpp", 1}, message};
}

TEST_CASE("an Error is printed as it is, with its exit code", "[failure]") {
  const auto failure = described(request_error("train.steps", "is 0", "Give one step or more."));
  CHECK(failure.message == "train.steps: is 0. Give one step or more.");
  CHECK(failure.exit_code == ExitCode::kBadRequest);
  CHECK(!failure.is_of_peer);
}

TEST_CASE("memory, files and the system's limits are not called a defect", "[failure]") {
  const auto bad_alloc = described(std::bad_alloc());
  CHECK_THAT(bad_alloc.message, Contains("out of memory") && !Contains("defect"));
  const auto allocator = described(torch_error("DefaultCPUAllocator: can't allocate memory"));
  CHECK_THAT(allocator.message, Contains("out of memory") && !Contains("defect"));
  const auto file = described(std::filesystem::filesystem_error(
      "rename", "a/b", std::make_error_code(std::errc::no_space_on_device)));
  CHECK_THAT(file.message, Contains("a/b: No space left on device") && !Contains("defect"));
  const auto threads = described(
      std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again), "thread"));
  CHECK_THAT(threads.message, Contains("ulimit") && !Contains("defect"));
  const auto singular =
      described(c10::LinAlgError({"function", "file.cpp", 1}, "linalg.eigh: did not converge"));
  CHECK_THAT(singular.message, Contains("did not converge") && !Contains("defect"));
  for (const auto& failure : {bad_alloc, allocator, file, threads, singular}) {
    CHECK(failure.exit_code == ExitCode::kFailed);
  }
}

TEST_CASE("a failing GPU is not called a defect", "[failure]") {
  const auto failure = described(torch_error("CUDA error: device-side assert triggered"));
  CHECK_THAT(failure.message, Contains("the GPU failed") && !Contains("defect"));
}

TEST_CASE("anything else is a defect, with a wish for a report", "[failure]") {
  CHECK_THAT(described(torch_error("expected 3 axes")).message,
             Contains("defect of Regroup: expected 3 axes") && Contains("report it"));
  CHECK_THAT(described(std::runtime_error("odd")).message, Contains("defect of Regroup: odd"));
}

TEST_CASE("what a peer reported is said to be a peer's", "[failure]") {
  CHECK(described(PeerFailure("rank 1 failed")).is_of_peer);
}

}  // namespace
}  // namespace regroup
