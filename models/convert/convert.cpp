#include "models/convert/convert.h"

#include <torch/types.h>

#include "framework/errors/error.h"
#include "framework/process/background_task.h"
#include "framework/progress/progress.h"
#include "models/convert/kv_budget.h"
#include "models/convert/layer_pooling.h"
#include "models/convert/method_check.h"
#include "models/convert/methods.h"
#include "models/convert/projection_training.h"
#include "models/finite.h"
#include "models/flops.h"
#include "models/model_writer.h"
#include "models/run_layout.h"
#include "models/token_meaning.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

/// Converts layers in order, each when one of its projections is needed, and keeps the latest.
class LayerConverter {
 public:
  LayerConverter(const ModelFolder& source, const ConversionPlan& plan, const DecoderConfig& target,
                 const CalibrationText* text, const fs::path& scratch, World& world)
      : source_(source),
        plan_(plan),
        world_(world),
        pooling_(plan.method, plan.grouping, plan.seed),
        target_(target),
        progress_({.label = "convert", .total = target.n_layer(), .round = "layer"}) {
    if (text) pass_.emplace(source, *text, scratch, world);
  }

  const LayerProjections& layer(int64_t index) {
    while (static_cast<int64_t>(report_.layers.size()) <= index) convert_next();
    return current_;
  }

  ConversionReport finish() {
    if (plan_.verify) report_.likeness = pass_->likeness();
    return report_;
  }

 private:
  void convert_next() {
    const auto index = static_cast<int64_t>(report_.layers.size());
    const auto original = layer_projections(source_, index);
    const auto context = pooling_.context(index, pass_ ? &*pass_ : nullptr);
    ConversionReport::Layer layer;
    layer.groups = pooling_.partition(original, target_.layer(index).attention.n_kv_head, context);
    current_ = pool_layer(original, layer.groups, pooling_.method(), context);
    share(layer.groups, current_);
    if (plan_.verify) {
      check_method(original, pooling_.method(), context);
      layer.error = pass_->layer_error(current_, layer.groups);
    }
    if (plan_.verify || plan_.refit != RefitKind::kNone) {
      layer.refit = pass_->advance_beside(current_, plan_.refit);
    } else if (pass_) {
      pass_->advance();
    }
    report_.layers.push_back(std::move(layer));
    progress_.update(index + 1);
  }

  /// Every process continues with rank 0's result: other machines may find another basis.
  void share(Partition& groups, LayerProjections& pooled) {
    for (auto& group : groups) {
      const auto heads = torch::tensor(group);
      world_.broadcast(heads, /*from=*/0);
      std::copy_n(heads.const_data_ptr<int64_t>(), group.size(), group.begin());
    }
    for (auto* projection : {&pooled.q_proj, &pooled.k_proj, &pooled.v_proj, &pooled.o_proj,
                             &pooled.q_norm, &pooled.k_norm}) {
      if (!projection->defined()) continue;
      *projection = projection->contiguous();
      world_.broadcast(*projection, /*from=*/0);
    }
  }

  const ModelFolder& source_;
  const ConversionPlan& plan_;
  World& world_;
  LayerPooling pooling_;
  DecoderConfig target_;
  std::optional<CalibrationPass> pass_;
  ProgressLine progress_;
  LayerProjections current_;
  ConversionReport report_;
};

/// The converted values of what travels with heads; the source's values of other parameters.
std::function<torch::Tensor()> parameter_values(const ModelFolder& source,
                                                LayerConverter& converter, const ParameterId& id) {
  if (id.layer && is_projection(id, source.config().layer(*id.layer).attention))
    return [&converter, id] { return projection_values(converter.layer(*id.layer), id); };
  return [&source, id] { return finite_parameter(source, id); };
}

std::vector<ParameterSource> converted_parameters(const ModelFolder& source,
                                                  const DecoderConfig& config,
                                                  LayerConverter& converter) {
  std::vector<ParameterSource> parameters;
  for (const auto& block : decoder_blocks(config)) {
    for (const auto& [id, spec] : block.parameters) {
      parameters.push_back(
          {id, parameter_values(source, converter, id), source.parameter_dtype(id)});
    }
  }
  return parameters;
}

void check_needs_of_text(const ConversionPlan& plan) {
  if (!plan.calibration.empty()) return;
  const char* needs = plan.refit != RefitKind::kNone ? "refit"
                      : plan.verify                  ? "verify"
                      : plan.calibration_tokens      ? "calibration_tokens"
                                                     : nullptr;
  if (!needs) return;
  throw request_error(needs, "needs calibration text",
                      "Give a token file: calibration = FILE.h5 (--calibration FILE.h5).");
}

}  // namespace

bool ConversionPlan::gains_from_text() const {
  return conversion_method(method).uses_moments || grouping == Grouping::kSimilar ||
         refit != RefitKind::kNone || kv_budget || verify;
}

DecoderConfig converted_config(const DecoderConfig& source, const std::vector<int64_t>& n_kv_head) {
  DecoderConfig config = source;
  config.set_n_kv_head(kv_heads_per_layer(n_kv_head, source.n_kv_head(), "K/V heads"));
  return config;
}

Conversion::Conversion(const ModelFolder& source, ConversionPlan plan)
    : source_(source), plan_(std::move(plan)) {
  if (plan_.kv_budget.has_value() == !plan_.n_kv_head.empty()) {
    throw request_error(
        "n_kv_head and kv_budget", "exactly one of them must be given",
        "Give the number of K/V heads to keep, N or N,N,... (one per layer), or a share of "
        "the K/V bytes.");
  }
  if (plan_.kv_budget) {
    check_budget(source.config(), *plan_.kv_budget);
  } else {
    converted_config(source.config(), plan_.n_kv_head);
  }
  check_needs_of_text(plan_);
  if (plan_.calibration.empty()) return;
  const auto data = TokenData::open(plan_.calibration);
  const auto& train = data.split("train");
  require_same_tokens({token_meaning(source), token_meaning(plan_.calibration)},
                      plan_.allow_other_tokenizer);
  data.check_vocabulary(train, source.config().vocab_size);
  const auto text = read_calibration_text(train, plan_.calibration_tokens, source.config());
  if (!plan_.gains_from_text()) return;
  text_ = text;
  calibration_fingerprint_ = train.fingerprint();
}

Provenance Conversion::provenance() const {
  Provenance provenance = source_.provenance();
  provenance.original = as_original(source_);
  provenance.conversion = {.method = plan_.method,
                           .grouping = name_of(groupings(), plan_.grouping),
                           .refit = name_of(refit_kinds(), plan_.refit),
                           .kv_budget = plan_.kv_budget,
                           .calibration = calibration_fingerprint_,
                           .calibration_tokens = text_ ? text_->n_tokens() : 0};
  // The cost of the source; an unknown cost stays unknown.
  if (provenance.pretrain_flops > 0) provenance.pretrain_flops += provenance.uptrain_flops;
  provenance.uptrain_flops = flops();
  provenance.uptrain_steps = 0;
  return provenance;
}

bool Conversion::made(const ModelFolder& model) const {
  const auto theirs = model.provenance();
  const auto ours = provenance();
  if (!theirs.original || theirs.original->hash != ours.original->hash) return false;
  if (!(theirs.conversion == ours.conversion)) return false;
  return plan_.kv_budget || model.config() == converted_config(source_.config(), plan_.n_kv_head);
}

double Conversion::flops() const {
  if (!text_) return 0;
  const auto& config = source_.config();
  const int passes = 1 + (plan_.kv_budget ? 1 : 0) + (plan_.refit != RefitKind::kNone ? 1 : 0);
  const double looking = passes * forward_flops_per_token(config, text_->positions());
  const double training =
      plan_.refit == RefitKind::kBlock
          ? kTrainingPasses * 3 * attention_flops_per_token(config, text_->positions())
          : 0;
  return static_cast<double>(text_->n_tokens()) * (looking + training);
}

ConversionReport Conversion::write(const fs::path& folder, World& all) const {
  if (!text_ && !all.is_rank_0()) return {};
  World alone;
  auto& world = text_ ? all : alone;  // without text there is nothing to divide
  std::optional<CalibrationText> mine;
  if (text_) mine = share_of(*text_, world.rank(), world.size());
  const auto* text = mine ? &*mine : nullptr;
  const auto n_kv_head =
      plan_.kv_budget
          ? heads_within_budget(source_, *plan_.kv_budget,
                                {plan_.method, plan_.grouping, plan_.seed}, text, folder, world)
          : plan_.n_kv_head;
  const auto config = converted_config(source_.config(), n_kv_head);
  ModelDescription description{&source_.family(), config, source_.dtype(), {}, source_.text()};
  std::optional<LayerConverter> converter(std::in_place, source_, plan_, config, text, folder,
                                          world);
  if (world.is_rank_0()) {
    BackgroundTask describing;  // hashes the whole source
    describing.start([&] { description.provenance = provenance(); });
    const auto parameters = converted_parameters(source_, config, *converter);
    write_tensor_folder(folder, tensor_sources(description, parameters), kDefaultShardBytes);
    describing.wait();
    write_description(folder, description);
  } else {
    converter->layer(config.n_layer() - 1);
  }
  auto report = converter->finish();
  converter.reset();  // its scratch files may lie in the folder
  world.sum({0});     // waits until every process is done with its text
  report.calibration_tokens = text_ ? text_->n_tokens() : 0;
  return report;
}

}  // namespace regroup
