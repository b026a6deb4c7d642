// What the Python helper prints for a text: its token ids.
#include "framework/data/token_ids.h"
#include "tests/fuzz/fuzz_target.h"

void regroup::fuzz::read_input(std::string_view input) {
  parse_token_ids(std::string(input), "tokenizer.json");
}

std::string regroup::fuzz::good_input() { return "1 2 3"; }
