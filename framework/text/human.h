// framework/text/human.h: numbers and quoted text in a form for people.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace regroup {

/// "950", "12.3 k", "4.56 M", "7.89 G": three significant digits with an SI prefix.
std::string human_count(double value);

/// "512 B", "1.5 KiB", "12.3 MiB", "4.56 GiB": MiB is 2^20 bytes.
std::string human_bytes(double bytes);

/// "0.4 s", "12 s", "3 min 05 s", "2 h 10 min", "3 d 04 h".
std::string human_duration(double seconds);

/// value with `digits` digits after the point: "3.1416" for (pi, 4).
std::string fixed(double value, int digits);

/// The text, or its first bytes and "..." where it is longer: for user input in a message.
std::string abbreviated(const std::string& text, size_t most_bytes = 200);

/// The text with control characters other than line ends and tabs as "\x1b": names from files must
/// not act on the terminal.
std::string printable(const std::string& text);

/// A table with columns padded to their widest cell. The first column is text, the rest are
/// numbers. The first row is the header; all rows have the same number of cells.
std::string aligned_table(const std::vector<std::vector<std::string>>& rows);

}  // namespace regroup
