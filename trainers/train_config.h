// trainers/train_config.h: the keys of a training run's config, their defaults and derived
// numbers.
#pragma once

#include <torch/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "framework/distributed/world.h"
#include "framework/parameters/adamw.h"
#include "framework/parameters/lr_schedule.h"
#include "framework/settings/config.h"
#include "models/config/decoder_config.h"
#include "models/convert/convert.h"

namespace regroup {

enum class ActivationCheckpointing { kNone, kFull };

/// Compute dtypes by their names in configs and options.
const EnumNames<torch::ScalarType>& compute_dtypes();
/// Schedules by name: "cosine", "linear", ...
const EnumNames<ScheduleKind>& schedule_names();
constexpr double kMostThreads = 4096;

struct TrainConfig {
  struct Model {
    std::string family = "llama";
    int64_t n_layer = 4, d_model = 256, n_head = 8;
    std::vector<int64_t> n_kv_head;  // empty: n_head
    std::optional<int64_t> head_dim, d_ff, vocab_size;
    int64_t max_seq_len = 2048;
    double rope_theta = 10000, norm_eps = 1e-5;
    std::optional<bool> tie_embeddings;
  } model;
  struct Data {
    std::filesystem::path train, val;
    int64_t seq_len = 512;
    int64_t shuffle_seed = 0;
    bool allow_other_tokenizer = false;
  } data;
  struct Optim {
    LrSchedule schedule;  // its steps are the run's, filled in by the trainer
    AdamWOptions adamw;
    double grad_clip = 1;
  } optim;
  struct Train {
    std::optional<int64_t> steps, tokens;
    int64_t batch_tokens = 8192, micro_batch = 8;
    torch::ScalarType dtype = torch::kFloat32;
    int64_t seed = 0;
    std::optional<ActivationCheckpointing> activation_checkpointing;  // empty: by the strategy
    int64_t max_skipped_steps = 10;
    std::optional<int64_t> threads;
    std::string device = "cpu";
  } train;
  struct Convert {
    std::filesystem::path from;
    ConversionPlan plan;  // its seed is train.seed
  } convert;
  struct Uptrain {
    double alpha = 0.05;
    std::optional<int64_t> original_steps;
    std::filesystem::path from, original;
  } uptrain;
  kernels::Distillation distill;
  struct Eval {
    int64_t every = 0, batches = 8;
    std::filesystem::path choices;
  } eval;
  struct Checkpoint {
    int64_t every = 0, keep = 3;
  } checkpoint;
  DistOptions dist;
  struct Log {
    int64_t every = 1;
  } log;

  /// Sequences of one optimizer step, over all micro-batches.
  int64_t sequences_per_step() const { return train.batch_tokens / data.seq_len; }
  /// True if backward recomputes the blocks' activations.
  bool recomputes_activations() const;
  int64_t tokens_per_step() const { return sequences_per_step() * data.seq_len; }
  /// Every model and token file that is named; empty where none is.
  std::vector<std::filesystem::path> inputs() const {
    return {convert.from, convert.plan.calibration,
            uptrain.from, uptrain.original,
            data.train,   data.val,
            eval.choices};
  }
};

/// Declares every key. The schema refers to config, which must outlive it.
void declare(ConfigSchema& schema, TrainConfig& config);

/// The architecture that [model] describes, with the data's vocabulary where none is given. Throws
/// a request Error with everything that is wrong.
DecoderConfig decoder_config(const TrainConfig& config, int64_t data_vocab_size);
/// Opens the data, where it is given, for its vocabulary if [model] has none.
DecoderConfig decoder_config(const TrainConfig& config);

}  // namespace regroup
