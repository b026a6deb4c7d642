// tools/generation/child_program.h: a program that runs beside this one and answers messages.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "framework/files/file_descriptor.h"

namespace regroup {

/// Travels as a line `KIND N` and the N bytes of the body.
struct Message {
  std::string kind;  // a word
  std::string body;
};

/// Reads messages on its stdin and writes one answer to each on its stdout; its stderr is dropped.
class ChildProgram {
 public:
  /// Starts it, without a shell. Ctrl-C on a terminal does not reach it; it ends with its stdin.
  /// Throws a request Error where it cannot run.
  ChildProgram(const std::vector<std::string>& words, const std::string& advice);
  /// Closes its stdin and waits for its end.
  ~ChildProgram();
  ChildProgram(const ChildProgram&) = delete;
  ChildProgram& operator=(const ChildProgram&) = delete;

  /// nullopt where it has ended, or writes anything other than an answer.
  std::optional<Message> ask(const Message& request);

 private:
  std::optional<std::string> read(size_t n_bytes);

  pid_t id_ = 0;
  FileDescriptor requests_;
  FileDescriptor answers_;
};

}  // namespace regroup
