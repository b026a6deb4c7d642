#include "trainers/train_config.h"

#include "framework/data/token_data.h"
#include "framework/errors/error.h"
#include "models/convert/methods.h"
#include "models/families/family.h"

namespace regroup {
namespace {

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& family : families()) names.push_back(family.name);
  return names;
}

// Far above any model, yet products of these fit 64 bits.
constexpr double kMostLayers = 1e4, kMostHeads = 65536, kWidest = 1 << 20, kMostTokens = 1e15,
                 kMostBatchTokens = 1e9;

void declare_model(ConfigSchema& schema, TrainConfig::Model& model) {
  const auto width = between(1, kWidest), heads = between(1, kMostHeads),
             length = between(1, 1 << 30);
  schema.add("model.family", &model.family, "architecture of the files that are written",
             family_names());
  schema.add("model.n_layer", &model.n_layer, "blocks", between(1, kMostLayers));
  schema.add("model.d_model", &model.d_model, "width of the residual stream", width);
  schema.add("model.n_head", &model.n_head, "query heads", heads);
  schema.add("model.n_kv_head", &model.n_kv_head,
             "K/V heads, one number or one a layer (default: n_head)", heads);
  schema.add("model.head_dim", &model.head_dim, "width of a head (default: d_model / n_head)",
             width);
  schema.add("model.d_ff", &model.d_ff,
             "width inside the MLP (default: 8/3 d_model, rounded up to 32)", width);
  schema.add("model.vocab_size", &model.vocab_size, "vocabulary (default: the data's)", length);
  schema.add("model.max_seq_len", &model.max_seq_len, "longest sequence", length);
  schema.add("model.rope_theta", &model.rope_theta, "base of the rotary frequencies", above(0));
  schema.add("model.norm_eps", &model.norm_eps, "added to the mean square in norms", at_least(0));
  schema.add("model.tie_embeddings", &model.tie_embeddings,
             "output head is the embedding (default: as in the family's class)");
}

void declare_optim(ConfigSchema& schema, TrainConfig::Optim& optim) {
  schema.add("optim.lr", &optim.schedule.lr, "peak learning rate", above(0));
  schema.add("optim.min_lr", &optim.schedule.min_lr, "learning rate at the end", at_least(0));
  schema.add("optim.warmup_steps", &optim.schedule.warmup_steps, "steps of linear warm-up",
             at_least(0));
  schema.add("optim.schedule", &optim.schedule.kind, "after warm-up", schedule_names());
  schema.add("optim.beta1", &optim.adamw.beta1, "AdamW's decay of the mean", between(0, 0.999999));
  schema.add("optim.beta2", &optim.adamw.beta2, "AdamW's decay of the mean square",
             between(0, 0.999999));
  schema.add("optim.eps", &optim.adamw.eps, "AdamW's epsilon", above(0));
  schema.add("optim.weight_decay", &optim.adamw.weight_decay,
             "decay of matrices; norm gains never decay", at_least(0));
  schema.add("optim.grad_clip", &optim.grad_clip, "largest gradient norm (0: no clipping)",
             at_least(0));
}

void declare_train(ConfigSchema& schema, TrainConfig::Train& train) {
  schema.add("train.steps", &train.steps, "optimizer steps", between(1, kMostTokens));
  schema.add("train.tokens", &train.tokens, "training tokens, instead of steps",
             between(1, kMostTokens));
  schema.add("train.batch_tokens", &train.batch_tokens, "tokens of an optimizer step",
             between(1, kMostBatchTokens));
  schema.add("train.micro_batch", &train.micro_batch, "sequences of a forward pass",
             between(1, 1 << 20));
  schema.add("train.dtype", &train.dtype,
             "dtype of weights and activations; masters and optimizer are fp32", compute_dtypes());
  schema.add("train.seed", &train.seed, "seed of initial weights and random heads", at_least(0));
  schema.add(
      "train.activation_checkpointing", &train.activation_checkpointing,
      "recompute blocks in backward (default: full with strategy shard or hybrid, else none)",
      EnumNames<ActivationCheckpointing>{{"none", ActivationCheckpointing::kNone},
                                         {"full", ActivationCheckpointing::kFull}});
  schema.add("train.max_skipped_steps", &train.max_skipped_steps,
             "non-finite steps in a row that stop the run", at_least(1));
  schema.add("train.threads", &train.threads,
             "CPU threads (default: what affinity and the CPU quota allow)",
             between(1, kMostThreads));
  schema.add("train.device", &train.device, "where to train",
             std::vector<std::string>{"cpu", "cuda"});
}

void declare_dist(ConfigSchema& schema, DistOptions& dist) {
  schema.add("dist.strategy", &dist.strategy,
             "every process holds the whole model, a part of it, or a part within its node",
             strategies());
  schema.add("dist.backend", &dist.backend, "what joins the processes (auto: by train.device)",
             backend_kinds());
  schema.add("dist.wire_dtype", &dist.wire_dtype, "dtype of gradients on the wire",
             compute_dtypes());
  schema.add("dist.reduce_dtype", &dist.reduce_dtype, "dtype of gradient sums", compute_dtypes());
  schema.add("dist.timeout_s", &dist.timeout_s, "seconds after which a silent rank counts as gone",
             between(1, 1e6));
}

void declare_convert(ConfigSchema& schema, TrainConfig::Convert& convert) {
  schema.add("convert.from", &convert.from, "the original, to be converted now");
  schema.add("convert.n_kv_head", &convert.plan.n_kv_head,
             "new K/V heads, one number or one a layer", between(1, kMostHeads));
  schema.add("convert.kv_budget", &convert.plan.kv_budget,
             "share of the original's K/V bytes, instead of n_kv_head", between(0, 1));
  schema.add("convert.method", &convert.plan.method, "how heads are pooled",
             conversion_method_names());
  schema.add("convert.grouping", &convert.plan.grouping, "which heads are pooled", groupings());
  schema.add("convert.refit", &convert.plan.refit, "what is re-fitted after pooling",
             refit_kinds());
  schema.add("convert.calibration", &convert.plan.calibration,
             "token file for calibration (default: data.train)");
  schema.add("convert.calibration_tokens", &convert.plan.calibration_tokens,
             "calibration tokens (default: 32768)", between(1, kMostTokens));
}

}  // namespace

bool TrainConfig::recomputes_activations() const {
  const auto by_strategy = dist.strategy == Strategy::kReplicate ? ActivationCheckpointing::kNone
                                                                 : ActivationCheckpointing::kFull;
  return train.activation_checkpointing.value_or(by_strategy) == ActivationCheckpointing::kFull;
}

const EnumNames<ScheduleKind>& schedule_names() {
  static const EnumNames<ScheduleKind> names{{"cosine", ScheduleKind::kCosine},
                                             {"linear", ScheduleKind::kLinear},
                                             {"constant", ScheduleKind::kConstant},
                                             {"wsd", ScheduleKind::kWsd}};
  return names;
}

const EnumNames<torch::ScalarType>& compute_dtypes() {
  static const EnumNames<torch::ScalarType> names{{"fp32", torch::kFloat32},
                                                  {"bf16", torch::kBFloat16}};
  return names;
}

void declare(ConfigSchema& schema, TrainConfig& config) {
  declare_model(schema, config.model);
  schema.add("data.train", &config.data.train, "token file; its /train is trained on");
  schema.add("data.val", &config.data.val, "token file; its /val is evaluated on");
  schema.add("data.seq_len", &config.data.seq_len, "tokens of a training sequence",
             between(1, 1 << 30));
  schema.add("data.shuffle_seed", &config.data.shuffle_seed, "seed of the order of sequences",
             at_least(0));
  schema.add("data.allow_other_tokenizer", &config.data.allow_other_tokenizer,
             "accept token data made with another tokenizer than the model's");
  declare_optim(schema, config.optim);
  declare_train(schema, config.train);
  declare_convert(schema, config.convert);
  schema.add("uptrain.alpha", &config.uptrain.alpha, "share of the original's steps to train",
             between(0, 1000));
  schema.add("uptrain.original_steps", &config.uptrain.original_steps,
             "the original's steps, if its config.json lacks them", between(1, kMostTokens));
  schema.add("uptrain.from", &config.uptrain.from, "a model that is already converted");
  schema.add("uptrain.original", &config.uptrain.original,
             "the original of [uptrain] from: reference and teacher");
  schema.add("distill.weight", &config.distill.weight,
             "weight of the original's predictions in the loss (0: text alone)", between(0, 1));
  schema.add("distill.temperature", &config.distill.temperature,
             "divides the logits of both models", above(0));
  declare_dist(schema, config.dist);
  schema.add("eval.every", &config.eval.every,
             "steps between validation losses (0: at the end only)", at_least(0));
  schema.add("eval.batches", &config.eval.batches, "micro-batches of a validation loss",
             at_least(1));
  schema.add("eval.choices", &config.eval.choices, "token file with choice questions");
  schema.add("checkpoint.every", &config.checkpoint.every,
             "steps between checkpoints (0: at the end only)", at_least(0));
  schema.add("checkpoint.keep", &config.checkpoint.keep, "newest checkpoints that are kept",
             at_least(1));
  schema.add("log.every", &config.log.every, "steps between lines of metrics.jsonl", at_least(1));

  schema.add_rule({"train.steps", "train.tokens"}, [&config]() -> std::string {
    return config.train.steps && config.train.tokens
               ? "steps and tokens both say how long to train; give one"
               : "";
  });
  schema.add_rule({"train.batch_tokens", "data.seq_len"}, [&config]() -> std::string {
    if (config.train.batch_tokens >= config.data.seq_len) return "";
    return c10::str("batch_tokens (", config.train.batch_tokens,
                    ") is less than one sequence of seq_len (", config.data.seq_len, ")");
  });
  schema.add_rule({"optim.min_lr", "optim.lr"}, [&config]() -> std::string {
    const auto& schedule = config.optim.schedule;
    if (schedule.min_lr <= schedule.lr) return "";
    return c10::str("min_lr (", schedule.min_lr, ") is above lr (", schedule.lr, ")");
  });
  schema.add_rule({"dist.strategy", "train.activation_checkpointing"}, [&config]() -> std::string {
    if (config.dist.strategy == Strategy::kReplicate || config.recomputes_activations()) return "";
    return c10::str("strategy = ", name_of(strategies(), config.dist.strategy),
                    " needs train.activation_checkpointing = full: without it backward would keep "
                    "every gathered layer");
  });
}

namespace {

/// n_kv_head: none (MHA), one number, or one a layer.
void set_kv_heads(DecoderConfig& config, const std::vector<int64_t>& n_kv_head,
                  Complaints& complaints) {
  if (n_kv_head.size() > 1 && n_kv_head.size() != config.layers.size()) {
    complaints.add(
        c10::str("n_kv_head has ", n_kv_head.size(), " numbers for ", config.n_layer(), " layers"));
  } else if (n_kv_head.size() == 1) {
    config.set_n_kv_head(std::vector<int64_t>(config.layers.size(), n_kv_head[0]));
  } else if (!n_kv_head.empty()) {
    config.set_n_kv_head(n_kv_head);
  }
}

}  // namespace

DecoderConfig decoder_config(const TrainConfig& config, int64_t data_vocab_size) {
  const auto& model = config.model;
  Complaints complaints;
  if (!model.head_dim && model.d_model % model.n_head != 0) {
    complaints.add(c10::str("n_head (", model.n_head, ") does not divide d_model (", model.d_model,
                            "), and no head_dim is given"));
  }
  LayerConfig layer;
  layer.attention.n_head = layer.attention.n_kv_head = model.n_head;
  layer.attention.head_dim = model.head_dim.value_or(model.d_model / model.n_head);
  layer.attention.rotary = RotaryConfig{layer.attention.head_dim, model.rope_theta};
  layer.attention.scores = ScoreRule::plain(layer.attention.head_dim);
  layer.mlp.d_ff = model.d_ff.value_or((model.d_model * 8 / 3 + 31) / 32 * 32);
  layer.attention_in->eps = layer.mlp_in->eps = model.norm_eps;
  DecoderConfig result;
  result.d_model = model.d_model;
  result.vocab_size = model.vocab_size.value_or(data_vocab_size);
  result.max_seq_len = model.max_seq_len;
  result.layers.assign(static_cast<size_t>(model.n_layer), layer);
  result.final_norm->eps = model.norm_eps;
  const auto& family = family_named(model.family);
  result = new_config(family, result);
  result.head.tied = model.tie_embeddings.value_or(result.head.tied);
  set_kv_heads(result, model.n_kv_head, complaints);
  for (const auto& problem : result.problems()) complaints.add(problem);
  if (config.data.seq_len > result.max_seq_len) {
    complaints.add(c10::str("data.seq_len (", config.data.seq_len,
                            ") is longer than model.max_seq_len (", result.max_seq_len, ")"));
  }
  if (data_vocab_size > result.vocab_size) {
    complaints.add(c10::str("the data's vocabulary (", data_vocab_size,
                            ") is larger than model.vocab_size (", result.vocab_size, ")"));
  }
  complaints.throw_if_any("[model]", "Mend the config and start again.", ExitCode::kBadRequest);
  write_config(family, result);  // says now, not after the training, what no config.json can say
  return result;
}

DecoderConfig decoder_config(const TrainConfig& config) {
  const bool needs_data = !config.model.vocab_size && !config.data.train.empty();
  return decoder_config(config, needs_data ? TokenData::open(config.data.train).vocab_size() : 0);
}

}  // namespace regroup
