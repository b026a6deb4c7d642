// Writes the logits of one sequence to stdout as raw float32, [tokens, vocab_size], for the tests
// to compare: regroup_logits MODEL fp32|bf16 TOKEN...
#include <torch/types.h>
#include <torch/utils.h>

#include <cstdio>
#include <iostream>

#include "framework/errors/error.h"
#include "models/model_folder.h"

namespace regroup {
namespace {

void print_logits(const std::string& model, torch::ScalarType dtype,
                  const std::vector<int64_t>& tokens) {
  const torch::NoGradGuard no_grad;
  auto decoder = load_decoder(ModelFolder::open(model), dtype);
  const auto logits =
      decoder.logits(torch::tensor(tokens).unsqueeze(0)).to(torch::kFloat32).contiguous();
  std::fwrite(logits.const_data_ptr(), 1, logits.nbytes(), stdout);
}

}  // namespace
}  // namespace regroup

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  std::vector<int64_t> tokens;
  for (int i = 3; i < argc; ++i) tokens.push_back(std::stoll(argv[i]));
  try {
    regroup::print_logits(
        argv[1], argv[2] == std::string("bf16") ? torch::kBFloat16 : torch::kFloat32, tokens);
  } catch (const regroup::Error& error) {
    std::cerr << error.what() << "\n";
    return static_cast<int>(error.exit_code());
  }
  return 0;
}
