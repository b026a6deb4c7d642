// tests/fuzz/fuzz_target.h: what a fuzz target defines, and where it puts the files that it reads.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "tests/support/temp_folder.h"

namespace regroup::fuzz {

/// Reads the bytes as the program reads one kind of user's file. An Error is the right answer to
/// bad input. Any other exception, a crash, a sanitizer's report, and an input that takes too much
/// memory or time are findings.
void read_input(std::string_view input);

/// An input that read_input takes. The target reads it first and ends if it is refused: a target
/// whose own files are wrong would refuse every input and find nothing.
std::string good_input();

/// The folder of this process for input files, removed at exit.
const testing::TempFolder& input_folder();

}  // namespace regroup::fuzz
