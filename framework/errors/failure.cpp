#include "framework/errors/failure.h"

#include <c10/util/Exception.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <new>
#include <system_error>

#include "framework/text/human.h"

namespace regroup {
namespace {

bool is_debugging() {
  const char* wanted = std::getenv("REGROUP_DEBUG");
  return wanted && std::strcmp(wanted, "1") == 0;
}

Failure out_of_memory(const std::string& message) {
  return {"out of memory: " + message +
          "\nTake a smaller batch (train.micro_batch), train.activation_checkpointing=full, "
          "--dtype bf16 or a machine with more memory."};
}

Failure defect(const std::string& message, const std::string& trace) {
  return {"this is a defect of Regroup: " + message +
          (is_debugging() ? "\n" + trace
                          : "\nPlease report it with the command; REGROUP_DEBUG=1 shows where.")};
}

/// The driver or the device failed, or the build does not suit it.
bool is_of_gpu(const c10::Error& error) {
  const std::string message = error.what_without_backtrace();
  return !is_out_of_memory(error) &&
         (message.starts_with("CUDA ") || message.find("NVIDIA driver") != std::string::npos);
}

Failure of_gpu(const std::string& message) {
  return {"the GPU failed: " + message +
          "\nCheck it with nvidia-smi; regroup --version says what this build can use."};
}

Failure of_file(const std::filesystem::filesystem_error& error) {
  const auto other = error.path2().empty() ? "" : " and " + error.path2().string();
  return {error.path1().string() + other + ": " + error.code().message() +
          "\nCheck that the path is right, its permissions, and the room on the disk."};
}

}  // namespace

bool is_out_of_memory(const c10::Error& error) {
  const std::string message = error.what_without_backtrace();
  return dynamic_cast<const c10::OutOfMemoryError*>(&error) ||
         message.find("can't allocate memory") != std::string::npos ||
         message.find("not enough memory") != std::string::npos;
}

Failure describe_failure(std::exception_ptr problem) {
  try {
    std::rethrow_exception(problem);
  } catch (const Error& error) {
    return {error.what(), error.exit_code()};
  } catch (const PeerFailure& error) {
    return {error.what(), ExitCode::kFailed, /*is_of_peer=*/true};
  } catch (const c10::LinAlgError& error) {
    return {std::string("a matrix cannot be solved or decomposed: ") +
            error.what_without_backtrace() +
            "\nAre the model's weights finite? Give more calibration text, or another method."};
  } catch (const c10::Error& error) {
    if (is_of_gpu(error)) return of_gpu(error.what_without_backtrace());
    if (is_out_of_memory(error)) return out_of_memory(error.what_without_backtrace());
    return defect(error.what_without_backtrace(), error.what());
  } catch (const std::filesystem::filesystem_error& error) {
    return of_file(error);
  } catch (const std::system_error& error) {
    return {std::string("the system refused: ") + error.what() +
            "\nCheck the limits on threads, processes and open files (ulimit -a)."};
  } catch (const std::bad_alloc&) {
    return out_of_memory("the system refused more");
  } catch (const std::exception& error) {
    return defect(error.what(), "(no trace: not an error of LibTorch)");
  }
}

ExitCode print_failure(const std::string& message, ExitCode code) {
  constexpr size_t kMostCharacters = 2900;
  const bool is_cut = !is_debugging() && message.size() > kMostCharacters;
  std::cerr << "regroup: error: "
            << printable(is_cut ? message.substr(0, kMostCharacters) + "..." : message)
            << std::endl;
  return code;
}

}  // namespace regroup
