#include <torch/types.h>

#include <iostream>

#include "framework/data/token_data.h"
#include "framework/errors/error.h"
#include "framework/files/hdf5_file.h"
#include "framework/progress/progress.h"
#include "framework/text/human.h"
#include "models/model_folder.h"
#include "models/token_meaning.h"
#include "tools/command_line/compute.h"
#include "tools/verbs/verbs.h"
#include "trainers/scoring.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

bool is_scores_file(const fs::path& file) {
  try {
    return Hdf5File::open(file).exists("/logprob");
  } catch (const Error&) {
    return false;  // not even HDF5
  }
}

void check_output_file(const fs::path& file, bool force) {
  require_writable(file);
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return;
  if (!force) {
    throw request_error(file.string(), "exists",
                        "Name another file, or add --force to replace the scores in it.");
  }
  if (is_scores_file(file)) return;
  throw request_error(file.string(), "is not a scores file that Regroup wrote",
                      "Name another file; --force replaces only scores files.");
}

ScoringWindows scoring_windows(std::optional<int64_t> window, std::optional<int64_t> stride,
                               int64_t max_seq_len) {
  ScoringWindows windows{window.value_or(max_seq_len), 0};
  windows.stride = stride.value_or(windows.window);
  Complaints complaints;
  if (windows.window > max_seq_len) {
    complaints.add(c10::str("--window (", windows.window, ") is longer than the model's context (",
                            max_seq_len, ")"));
  }
  if (windows.stride > windows.window) {
    complaints.add(c10::str("--stride (", windows.stride, ") is above the window (", windows.window,
                            "); tokens between windows would have no score"));
  }
  complaints.throw_if_any("score", "See `regroup score --help`.", ExitCode::kBadRequest);
  return windows;
}

void write_scores(const fs::path& file, const torch::Tensor& log_probabilities,
                  const torch::Tensor& offsets) {
  auto scores = Hdf5File::create(file);
  scores.write("/logprob", log_probabilities);
  scores.write("/offsets", offsets.to(torch::kUInt64));
  scores.close();
}

void print_summary(const fs::path& file, const torch::Tensor& log_probabilities,
                   const TokenSplit& split) {
  const int64_t scored = split.n_predicted();
  const double sum = log_probabilities.sum(torch::kFloat64).item<double>();
  std::cout << scored << " tokens of " << split.n_documents() << " documents scored";
  if (scored > 0) std::cout << ", loss " << fixed(-sum / static_cast<double>(scored), 4);
  std::cout << ": " << file.string() << "\n";
}

}  // namespace

ExitCode run_score(const std::vector<std::string>& arguments) {
  fs::path model_path, data_path, out;
  std::string split_name = "val";
  std::optional<int64_t> window, stride;
  Compute compute;
  bool force = false;
  CommandLine line(
      {.verb = "score",
       .usage = "--model MODEL --data FILE.h5 --out SCORES.h5 [options]",
       .summary = "Log-probability of every token given its document's tokens before it.",
       .example = "regroup score --model runs/mha --data data.h5 --split val --out scores.h5"});
  line.add("model", &model_path, "the model").shown_as("MODEL").required();
  line.add("data", &data_path, "token file").shown_as("FILE.h5").required();
  line.add("split", &split_name, "split of the token file");
  line.add("out", &out, "HDF5 file to write: /logprob (float32) and /offsets")
      .shown_as("SCORES.h5")
      .required();
  line.add("window", &window, "tokens of a window of a long document (default: max_seq_len)",
           at_least(1));
  line.add("stride", &stride, "tokens from one window to the next (default: the window)",
           at_least(1));
  bool allow_other_tokenizer = false;
  line.add_flag("allow-other-tokenizer", &allow_other_tokenizer, kAllowOtherTokenizer);
  compute.declare_on(line);
  line.add_force(&force);
  line.add_quiet();
  if (!line.parse(arguments)) return ExitCode::kDone;

  check_output_file(out, force);
  const auto folder = ModelFolder::open(model_path);
  const auto windows = scoring_windows(window, stride, folder.config().max_seq_len);
  const auto data = TokenData::open(data_path);
  require_same_tokens({token_meaning(folder), token_meaning(data_path)}, allow_other_tokenizer);
  const auto& split = data.split(split_name);
  data.check_vocabulary(split, folder.config().vocab_size);
  auto model = load_decoder(folder, compute.use());
  World alone;
  ProgressLine progress(
      {.label = "score", .total = split.n_predicted(), .round = "", .unit = "tokens"});
  const auto log_probabilities =
      score_tokens(model, split, windows, alone, [&](int64_t done) { progress.update(done); });
  progress.finish();
  write_scores(out, log_probabilities, split.offsets());
  print_summary(out, log_probabilities, split);
  return ExitCode::kDone;
}

}  // namespace regroup
