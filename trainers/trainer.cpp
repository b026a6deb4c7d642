#include "trainers/trainer.h"

#include <ATen/ceil_div.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "framework/data/batches.h"
#include "framework/data/prefetch.h"
#include "framework/errors/error.h"
#include "framework/process/background_task.h"
#include "framework/process/signals.h"
#include "framework/progress/console.h"
#include "framework/progress/metrics_log.h"
#include "framework/progress/progress.h"
#include "framework/text/human.h"
#include "models/finite.h"
#include "models/flops.h"
#include "trainers/machine.h"
#include "trainers/scoring.h"
#include "trainers/training_step.h"

namespace regroup {
namespace {

constexpr size_t kBatchesAhead = 4;
constexpr double kPeakSeconds = 0.5;  // a run starts later by as much
constexpr int kMostMendedPeaks = 3;
constexpr const char* kStopping =
    "\nstopping after this step, with a checkpoint; a second signal stops at once, without one\n";

struct StepResult {
  double loss;  // mean over the step's tokens
  double gradient_norm;
  double lr;
  bool finite;
  bool stop_requested;  // on any process
};

/// This rank's micro-batches in training order, prepared by a background thread. Each rank takes a
/// share of a step's sequences, in order; all ranks run the same number of micro-batches.
class MicroBatches {
 public:
  MicroBatches(const TrainingJob& job, int64_t first_step, const World& world)
      : batches_(job.train, job.config.data.seq_len, job.config.data.shuffle_seed),
        n_sequences_(job.config.sequences_per_step()),
        begin_(n_sequences_ * world.rank() / world.size()),
        end_(n_sequences_ * (world.rank() + 1) / world.size()),
        micro_batch_(job.config.train.micro_batch),
        per_step_(
            at::ceil_div<int64_t>(at::ceil_div<int64_t>(n_sequences_, world.size()), micro_batch_)),
        next_(first_step * per_step_),
        prefetch_([this] { return produce(); }, kBatchesAhead) {}

  /// [sequences, seq_len + 1]. The last of a step may be smaller, or empty if this rank's share is
  /// smaller than that of other ranks.
  torch::Tensor next() { return prefetch_.next(); }
  int64_t per_step() const { return per_step_; }

 private:
  torch::Tensor produce() {
    const int64_t step = next_ / per_step_, first = begin_ + next_ % per_step_ * micro_batch_;
    ++next_;
    const int64_t count = std::clamp<int64_t>(end_ - first, 0, micro_batch_);
    if (count == 0) return torch::empty({0, batches_.seq_len() + 1}, torch::kInt64);
    return batches_.gather(step * n_sequences_ + first, count);
  }

  Batches batches_;
  int64_t n_sequences_, begin_, end_, micro_batch_, per_step_;
  int64_t next_;  // micro-batch of this process, counted over all steps
  Prefetch prefetch_;
};

class Trainer {
 public:
  Trainer(Decoder& model, RunFolder& run, const TrainingJob& job, World& world)
      : model_(model),
        run_(run),
        job_(job),
        world_(world),
        snapshot_(world.rank(), world.size()),
        optimizer_(model.blocks(), job.config.optim.adamw),
        schedule_(schedule_of(job.config, job.steps)),
        flops_per_token_(training_flops_per_token(model.config(), job.config.data.seq_len)),
        peak_(model.options(), job.config.train.micro_batch * job.config.data.seq_len,
              model.config().d_model, model.config().layer(0).mlp.d_ff) {
    peak_.measure(kPeakSeconds);
    warn_of_short_warmup(job);
    state_.planned_steps = job.steps;
    if (job.val) val_windows_.emplace(*job.val, job.config.data.seq_len, std::nullopt);
  }

  TrainingOutcome run() {
    const StopSignals signals(world_.is_rank_0() && console().shows_progress() ? kStopping : "");
    world_.report_failure_of([this] { train(); });
    return outcome_;
  }

 private:
  void train() {
    if (run_.resumes()) load();
    run_.write_config(job_.resolved_config);  // the checkpoint accepts it
    if (world_.is_rank_0()) {
      metrics_.emplace(MetricsLog::resume(run_.metrics_file(), state_.step));
      progress_.emplace(progress_options());
    }
    batches_.emplace(job_, state_.step, world_);
    if (job_.config.checkpoint.every > 0)
      saving_.start([this] { snapshot_.reserve(model_, optimizer_); });
    logged_at_ = steady_seconds();
    while (!is_finished() && !outcome_.interrupted) {
      const StepResult result = train_step();
      log(result);
      refuse_divergence();
      if (is_due(job_.config.eval.every) || is_finished()) evaluate();
      if (is_due(job_.config.checkpoint.every)) save();
      outcome_.interrupted = result.stop_requested;
    }
    save();
    saving_.wait();
    if (progress_ && is_finished()) progress_->finish();
  }

  static LrSchedule schedule_of(const TrainConfig& config, int64_t steps) {
    LrSchedule schedule = config.optim.schedule;
    schedule.steps = steps;
    schedule.warmup_steps = std::min(schedule.warmup_steps, steps);
    return schedule;
  }

  static void warn_of_short_warmup(const TrainingJob& job) {
    const int64_t wanted = job.config.optim.schedule.warmup_steps;
    if (wanted <= job.steps) return;
    warn(c10::str("warmup_steps (", wanted, ") is longer than the run of ", job.steps,
                  " steps; it is shortened to that"));
  }

  ProgressOptions progress_options() const {
    return {.label = job_.label,
            .total = job_.steps,
            .round = "step",
            .unit = "tokens",
            .start = state_.step};
  }

  void load() {
    run_.load_checkpoint([&](const std::filesystem::path& checkpoint) {
      state_ = load_checkpoint(checkpoint, job_.identity, model_, optimizer_, world_);
      note(c10::str("resuming from ", checkpoint.string()));
    });
    saved_step_ = state_.step;
    const auto planned_steps = std::exchange(state_.planned_steps, job_.steps);
    if (state_.step <= job_.steps) return warn_of_jump(planned_steps);
    throw request_error(run_.path().string(),
                        c10::str("has been trained for ", state_.step, " steps, more than the ",
                                 job_.steps, " requested"),
                        "Ask for more steps, or start a new run.");
  }

  /// Says so if the schedule of a run of another length had another learning rate here.
  void warn_of_jump(int64_t planned_steps) const {
    if (planned_steps == 0 || planned_steps == job_.steps) return;
    const double before = schedule_of(job_.config, planned_steps).at(state_.step);
    const double now = schedule_.at(state_.step);
    if (before == now) return;
    warn(c10::str("the learning rate jumps: at step ", state_.step, " it was ", before,
                  " in the schedule of ", planned_steps, " steps, and is ", now, " in that of ",
                  job_.steps));
  }

  /// Forward and backward over the step's micro-batches, then one update of the weights.
  StepResult train_step() {
    saving_.check();
    ++state_.step;
    const auto sums = sum_gradients(
        model_, batches_->per_step(), [this] { return loss_of(batches_->next()); }, world_,
        [] { return stop_requested(); });
    return update({sums.loss, sums.gradient_norm, schedule_.at(state_.step), true, sums.stops});
  }

  /// This rank's contribution to the step's mean loss. A rank without a sequence runs one with
  /// weight 0, because other ranks wait for it in collectives.
  torch::Tensor loss_of(const torch::Tensor& tokens) {
    if (tokens.size(0) == 0) return 0 * loss_of(torch::zeros({1, tokens.size(1)}, torch::kInt64));
    const double scale = 1.0 / static_cast<double>(job_.config.tokens_per_step());
    return model_loss(tokens.to(model_.options().device()), scale);
  }

  torch::Tensor model_loss(const torch::Tensor& tokens, double scale) {
    if (!job_.teacher) return model_.loss(tokens, scale);
    return model_.distillation_loss(tokens, *job_.teacher, job_.config.distill, scale);
  }

  /// Clips and applies the gradients, or skips the step if loss or gradient is not finite.
  StepResult update(StepResult result) {
    result.finite = std::isfinite(result.loss) && std::isfinite(result.gradient_norm);
    if (result.finite) {
      optimizer_.step(result.lr, clip_factor(result.gradient_norm, job_.config.optim.grad_clip));
      state_.skipped_in_a_row = 0;
    } else {
      ++state_.skipped_steps;
      ++state_.skipped_in_a_row;
    }
    state_.tokens += job_.config.tokens_per_step();
    tokens_since_start_ += job_.config.tokens_per_step();
    return result;
  }

  /// The loss that training minimises is not that of the text alone if a teacher takes part.
  const char* loss_name() const { return job_.teacher ? "distillation loss" : "loss"; }

  /// Updates the progress line, and appends to metrics.jsonl every log.every steps.
  void log(const StepResult& result) {
    outcome_.loss = result.loss;
    if (!world_.is_rank_0()) return;
    const double tokens_per_s = pace();
    progress_->update(state_.step, static_cast<double>(tokens_since_start_),
                      {c10::str(loss_name(), " ", fixed(result.loss, 4))},
                      {mfu_text(mfu_at(tokens_per_s))});
    if (!is_due(job_.config.log.every) && state_.step < job_.steps && result.finite) return;
    mend_peak(tokens_per_s);
    MetricFields fields{{"step", state_.step},
                        {"tokens", state_.tokens},
                        {"loss", result.loss},
                        {"lr", result.lr},
                        {"grad_norm", result.gradient_norm},
                        {"tokens_per_s", tokens_per_s},
                        {"mfu", mfu_at(tokens_per_s)},
                        {"rss_bytes", resident_bytes()}};
    if (world_.size() > 1) {
      fields.emplace_back("sent_bytes", world_.sent_bytes() - sent_logged_);
      fields.emplace_back("save_wait_s", std::exchange(waited_to_save_, 0));
    }
    if (state_.skipped_steps > 0) fields.emplace_back("skipped_steps", state_.skipped_steps);
    metrics_->append(fields);
    begin_pace();
  }

  void begin_pace() {
    logged_at_ = steady_seconds();
    tokens_logged_ = tokens_since_start_;
    sent_logged_ = world_.sent_bytes();
  }

  /// Tokens a second since the last logged step.
  double pace() const {
    return static_cast<double>(tokens_since_start_ - tokens_logged_) /
           std::max(1e-9, steady_seconds() - logged_at_);
  }

  double mfu_at(double tokens_per_s) const {
    return tokens_per_s * flops_per_token_ / (world_.size() * peak_.value());
  }

  /// A pace above the peak shows that the peak was measured while other processes computed.
  void mend_peak(double tokens_per_s) {
    if (mfu_at(tokens_per_s) <= 1 || n_mended_peaks_ == kMostMendedPeaks) return;
    peak_.measure(kPeakSeconds);
    ++n_mended_peaks_;
  }

  void refuse_divergence() {
    if (state_.skipped_in_a_row < job_.config.train.max_skipped_steps) return;
    saving_.wait();
    // Training does not write such weights: they were read.
    require_finite_parameters(model_);
    if (job_.teacher) require_finite_parameters(*job_.teacher);
    const auto checkpoint = run_.newest_checkpoint();
    throw Error(c10::str(run_.path().string(), ", step ", state_.step),
                c10::str("loss or gradient was not finite in ", state_.skipped_in_a_row,
                         " steps in a row; the last good ",
                         checkpoint ? "checkpoint is " + checkpoint->string()
                                    : std::string("checkpoint: none was saved")),
                "Lower optim.lr or lengthen optim.warmup_steps, then resume or start again.");
  }

  /// "the first 64 of 812 sequences of val", on which the validation loss is measured.
  std::string validation_text() const {
    const auto& config = job_.config;
    const int64_t all = val_windows_->n_windows();
    const int64_t taken = std::min(all, config.eval.batches * config.train.micro_batch);
    return c10::str(taken < all ? c10::str("the first ", taken, " of ") : "all ", all,
                    " sequences of val");
  }

  void evaluate() {
    if (!val_windows_) return;
    const double loss = window_loss(model_, *val_windows_, job_.config.eval.batches,
                                    job_.config.train.micro_batch, world_);
    outcome_.val_loss = loss;
    if (!world_.is_rank_0()) return;
    metrics_->append({{"step", state_.step}, {"tokens", state_.tokens}, {"val_loss", loss}});
    note(c10::str("step ", state_.step, ": validation loss ", fixed(loss, 4), " on ",
                  validation_text()));
    begin_pace();  // evaluation does not count
  }

  /// Training waits for the copy to host memory (and for an unfinished earlier save), not for the
  /// files.
  void save() {
    if (saved_step_ == state_.step) return;
    const double start = steady_seconds();
    saving_.wait();
    snapshot_.take(state_, model_, optimizer_);
    waited_to_save_ += steady_seconds() - start;
    saving_.start([this] {
      const auto& state = snapshot_.state();
      run_.save_checkpoint(state.step, job_.config.checkpoint.keep,
                           [&](const std::filesystem::path& folder) {
                             auto description = job_.description;
                             description.provenance = trained_provenance(job_, state);
                             return snapshot_.write(folder, description, job_.identity);
                           });
    });
    saved_step_ = state_.step;
  }

  bool is_finished() const { return state_.step >= job_.steps; }
  bool is_due(int64_t every) const { return every > 0 && state_.step % every == 0; }

  Decoder& model_;
  RunFolder& run_;
  const TrainingJob& job_;
  World& world_;
  Snapshot snapshot_;
  AdamW optimizer_;
  LrSchedule schedule_;
  double flops_per_token_;
  PeakFlops peak_;
  int n_mended_peaks_ = 0;
  std::optional<Batches> val_windows_;

  TrainingOutcome outcome_;
  TrainState& state_ = outcome_.state;
  int64_t saved_step_ = -1;
  std::optional<MetricsLog> metrics_;
  std::optional<MicroBatches> batches_;
  std::optional<ProgressLine> progress_;
  int64_t tokens_since_start_ = 0;  // of this process
  int64_t tokens_logged_ = 0;
  double logged_at_ = 0;
  int64_t sent_logged_ = 0;
  double waited_to_save_ = 0;  // seconds since the last logged step
  BackgroundTask saving_;      // last: it ends before what it reads
};

}  // namespace

TrainingOutcome train(Decoder& model, RunFolder& run, const TrainingJob& job, World& world) {
  model.enable_training(job.config.recomputes_activations());
  return Trainer(model, run, job, world).run();
}

Provenance trained_provenance(const TrainingJob& job, const TrainState& state) {
  Provenance provenance = job.description.provenance;
  const int64_t seq_len = job.config.data.seq_len;
  const double teacher = job.teacher ? forward_flops_per_token(job.teacher->config(), seq_len) : 0;
  const double flops = (training_flops_per_token(job.description.config, seq_len) + teacher) *
                       static_cast<double>(state.tokens);
  provenance.tokens_seen += state.tokens;
  if (provenance.original) {
    provenance.uptrain_steps += state.step;
    provenance.uptrain_flops += flops;
  } else {
    provenance.pretrain_steps = provenance.pretrain_steps.value_or(0) + state.step;
    provenance.pretrain_flops += flops;
  }
  return provenance;
}

std::optional<int64_t> configured_steps(const TrainConfig& config) {
  if (config.train.steps) return config.train.steps;
  if (!config.train.tokens) return std::nullopt;
  return (*config.train.tokens + config.tokens_per_step() - 1) / config.tokens_per_step();
}

}  // namespace regroup
