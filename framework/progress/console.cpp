#include "framework/progress/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <set>
#include <string_view>

#include "framework/files/file_descriptor.h"
#include "framework/text/human.h"

namespace regroup {
namespace {

size_t terminal_columns(int descriptor) {
  winsize size{};
  constexpr size_t kUsualColumns = 80;
  const bool known = ::ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : kUsualColumns;
}

/// The first `columns` characters of UTF-8 text.
std::string cut(const std::string& text, size_t columns) {
  size_t characters = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool continues = (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80;
    if (continues) continue;
    if (characters++ == columns) return text.substr(0, i);
  }
  return text;
}

constexpr const char* kEraseLine = "\r\x1b[K";

bool stderr_is_terminal() {
  const char* kind = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && kind && std::string_view(kind) != "dumb";
}

bool is_first_time(const std::string& text) {
  static std::mutex mutex;
  static std::set<std::string> shown;
  const std::lock_guard lock(mutex);
  return shown.insert(text).second;
}

}  // namespace

void Console::set_verbosity(Verbosity verbosity) {
  const std::lock_guard lock(mutex_);
  verbosity_ = verbosity;
}

bool Console::shows_progress() {
  const std::lock_guard lock(mutex_);
  return verbosity_ == Verbosity::kAll;
}

void Console::note(const std::string& text) {
  const std::lock_guard lock(mutex_);
  if (verbosity_ == Verbosity::kAll) write_line(text);
}

void Console::warn(const std::string& text) {
  const std::lock_guard lock(mutex_);
  if (verbosity_ != Verbosity::kNothing) write_line("warning: " + text);
}

void Console::live(const std::string& text) {
  const std::lock_guard lock(mutex_);
  if (!is_terminal_ || verbosity_ != Verbosity::kAll) return;
  live_ = cut(printable(text), terminal_columns(descriptor_) - 1);
  write_all(descriptor_, kEraseLine + live_);
}

void Console::end_live() {
  const std::lock_guard lock(mutex_);
  if (!live_.empty()) write_all(descriptor_, "\n");
  live_.clear();
}

void Console::write_line(const std::string& text) {
  const bool redraw = !live_.empty();
  write_all(descriptor_, (redraw ? kEraseLine : "") + printable(text) + "\n" + live_);
}

Console& console() {
  static Console instance(STDERR_FILENO, stderr_is_terminal());
  return instance;
}

void note(const std::string& text) { console().note(text); }
void warn(const std::string& text) { console().warn(text); }

void note_once(const std::string& text) {
  if (is_first_time(text)) note(text);
}

void warn_once(const std::string& text) {
  if (is_first_time(text)) warn(text);
}

}  // namespace regroup
