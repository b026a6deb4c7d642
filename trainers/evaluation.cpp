#include "trainers/evaluation.h"

#include <torch/types.h>

#include <cmath>
#include <map>
#include <numbers>

#include "framework/data/token_data.h"
#include "framework/errors/error.h"
#include "framework/process/processors.h"
#include "framework/progress/console.h"
#include "framework/progress/progress.h"
#include "framework/tensors/dtype.h"
#include "framework/text/human.h"
#include "models/model_folder.h"
#include "trainers/scoring.h"
#include "trainers/speed.h"

namespace regroup {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kSpeedBatches[] = {1, 16};
constexpr int64_t kSpeedPrompt = 256, kSpeedNew = 64;
constexpr int kSpeedRounds = 5;
constexpr double kSpeedSeconds = 0.3;  // of a measurement
constexpr double kNoisySpread = 0.15;

/// Progress of one pass over n items.
class Pass {
 public:
  Pass(const std::string& label, int64_t n, const std::string& unit)
      : line_({.label = label, .total = n, .round = "", .unit = unit, .start = 0}) {}
  std::function<void(int64_t)> report() {
    return [this](int64_t done) { line_.update(done); };
  }

 private:
  ProgressLine line_;
};

double mean_loss(const torch::Tensor& log_probabilities, int64_t tokens) {
  return -log_probabilities.sum(torch::kFloat64).item<double>() /
         static_cast<double>(std::max<int64_t>(1, tokens));
}

class Evaluation {
 public:
  Evaluation(const EvaluationRequest& request, World& world)
      : request_(request),
        world_(world),
        data_(TokenData::open(request.data)),
        split_(data_.split(request.split)) {
    if (split_.n_predicted() == 0) {
      throw Error(split_.where(), "has no document of two tokens, so there is nothing to predict",
                  "Give longer documents.");
    }
    if (request.choices) choices_ = Choices::open(*request.choices);
    if (request.reference) reference_ = ModelFolder::open(*request.reference);
    for (const auto& model : request.models) folders_.push_back(ModelFolder::open(model.path));
    for (const auto& folder : folders_) check(folder);
    if (reference_)
      reference_decoder_ = load_decoder(*reference_, request.options, world.new_sharing());
  }

  Json run() {
    Json json;
    json["data"] = request_.data.string();
    json["split"] = request_.split;
    json["dtype"] = dtype_info(c10::typeMetaToScalarType(request_.options.dtype())).short_name;
    json["models"] = Json::array();
    for (size_t i = 0; i < folders_.size(); ++i) {
      const auto& name = request_.models[i].name;
      json["models"].push_back(row(name, label(i), folders_[i]));
      // A long evaluation that is interrupted has said this.
      if (i + 1 < folders_.size())
        note(c10::str(name, ": loss ", fixed(json["models"][i]["loss"].get<double>(), 4)));
    }
    return json;
  }

 private:
  void check(const ModelFolder& folder) const {
    const auto& config = folder.config();
    data_.check_vocabulary(split_, config.vocab_size);
    if (choices_) choices_->check_fit(config.vocab_size, config.max_seq_len);
    if (!reference_ || reference_->config().vocab_size == config.vocab_size) return;
    throw request_error(reference_->path().string(),
                        c10::str("has a vocabulary of ", reference_->config().vocab_size, ", ",
                                 folder.path().string(), " one of ", config.vocab_size),
                        "Compare models with the same tokenizer.");
  }

  /// "mha", or of several models "mha (2 of 6)".
  std::string label(size_t i) const {
    const auto& name = request_.models[i].name;
    return folders_.size() == 1 ? name : c10::str(name, " (", i + 1, " of ", folders_.size(), ")");
  }

  Json row(const std::string& name, const std::string& label, const ModelFolder& folder) {
    auto decoder = load_decoder(folder, request_.options, world_.new_sharing());
    const auto& config = folder.config();
    Json json;
    json["model"] = folder.path().string();
    json["name"] = name;
    json["n_kv_head"] = config.n_kv_head();
    json["parameters"] = n_parameters(config);
    add_quality(json, label, decoder, folder);
    add_choices(json, label, decoder);
    json["kv_bytes_per_token"] =
        config.kv_bytes_per_token(static_cast<int64_t>(request_.options.dtype().itemsize()));
    json["decode_tokens_per_s"] = nullptr;
    json["decode_spread"] = nullptr;
    const auto& provenance = folder.provenance();
    json["compute_fraction"] = nullptr;
    if (provenance.pretrain_flops > 0) {
      json["compute_fraction"] = provenance.uptrain_flops / provenance.pretrain_flops;
    }
    return json;
  }

  void add_quality(Json& json, const std::string& label, Decoder& decoder,
                   const ModelFolder& folder) {
    const int64_t tokens = split_.n_predicted();
    Pass pass("evaluating " + label, tokens, "tokens");
    std::optional<Likeness> likeness;
    double loss = 0;
    if (reference_ && !is_reference(folder)) {
      const int64_t window =
          std::min(decoder.config().max_seq_len, reference_->config().max_seq_len);
      likeness = compare_predictions(decoder, *reference_decoder_, split_, {window, window}, world_,
                                     pass.report());
      loss = likeness->loss;
    } else {
      const int64_t window = decoder.config().max_seq_len;
      loss =
          mean_loss(score_tokens(decoder, split_, {window, window}, world_, pass.report()), tokens);
      if (reference_) likeness = Likeness{loss, loss, 1, 0};  // of itself
    }
    json["tokens"] = tokens;
    json["loss"] = loss;
    json["perplexity"] = std::exp(loss);
    json["bits_per_byte"] = nullptr;
    if (split_.bytes()) {
      const double bits = loss * static_cast<double>(tokens) / std::numbers::ln2;
      json["bits_per_byte"] = bits / static_cast<double>(*split_.bytes());
    }
    json["choice_accuracy"] = nullptr;
    json["agreement"] = likeness ? Json(likeness->agreement) : Json();
    json["kl"] = likeness ? Json(likeness->kl) : Json();
  }

  void add_choices(Json& json, const std::string& label, Decoder& decoder) {
    if (!choices_) return;
    Pass pass("choices, " + label, choices_->size(), "questions");
    json["choice_accuracy"] = choice_accuracy(decoder, *choices_, world_, pass.report());
  }

  bool is_reference(const ModelFolder& folder) const {
    return std::filesystem::equivalent(folder.path(), reference_->path());
  }

  const EvaluationRequest& request_;
  World& world_;
  TokenData data_;
  const TokenSplit& split_;
  std::optional<Choices> choices_;
  std::vector<ModelFolder> folders_;
  std::optional<ModelFolder> reference_;
  std::optional<Decoder> reference_decoder_;
};

double decode_tokens_per_s(Decoder& decoder, int64_t batch) {
  const int64_t room = decoder.config().max_seq_len;
  const int64_t n_new = std::min(kSpeedNew, std::max<int64_t>(2, room / 2));
  const int64_t prompt = std::max<int64_t>(1, std::min(kSpeedPrompt, room - n_new));
  return measure_decode(decoder, batch, prompt, n_new, kSpeedSeconds).decode_tokens_per_s;
}

std::string cell(const Json& value, int digits, double factor = 1) {
  return value.is_number() ? fixed(value.get<double>() * factor, digits) : "-";
}

/// "512 (4 %)": the median, and how far the rounds were apart.
std::string speed_cell(const Json& model, const char* batch) {
  const auto& speeds = model.at("decode_tokens_per_s");
  if (!speeds.is_object()) return "-";
  const double spread = model.at("decode_spread").at(batch);
  return cell(speeds.at(batch), 0) + " (" + fixed(100 * spread, 0) + " %" +
         (spread > kNoisySpread ? ", noisy" : "") + ")";
}

}  // namespace

Json evaluate(const EvaluationRequest& request, World& world) {
  return Evaluation(request, world).run();
}

/// Models take turns, so that a slow moment of the machine hits all of them alike; one is in memory
/// at a time.
void measure_speeds(Json& evaluation, const EvaluationRequest& request) {
  const size_t n = request.models.size();
  std::vector<std::map<int64_t, std::vector<double>>> measured(n);  // by batch
  Pass pass("measuring decode speed", kSpeedRounds * static_cast<int64_t>(n), "measurements");
  int64_t done = 0;
  const OtherProcesses others;
  for (int round = 0; round < kSpeedRounds; ++round) {
    for (size_t i = 0; i < n; ++i) {
      auto decoder = load_decoder(ModelFolder::open(request.models[i].path), request.options);
      for (const int64_t batch : kSpeedBatches)
        measured[i][batch].push_back(decode_tokens_per_s(decoder, batch));
      pass.report()(++done);
    }
  }
  for (size_t i = 0; i < n; ++i) {
    auto& model = evaluation["models"][i];
    for (const auto& [batch, speeds] : measured[i]) {
      model["decode_tokens_per_s"][std::to_string(batch)] = median(speeds);
      model["decode_spread"][std::to_string(batch)] = spread(speeds);
    }
  }
  if (const auto remark = busy_remark(others.busy_processors())) warn(*remark);
}

std::string evaluation_table(const Json& evaluation) {
  std::vector<std::vector<std::string>> rows{
      {"model", "K/V heads", "loss", "perplexity", "bits/byte", "choices %", "agreement %", "KL",
       "K/V bytes/token (" + evaluation.at("dtype").get<std::string>() + ")",
       "tokens/s x1 (spread)", "tokens/s x16 (spread)", "compute %"}};
  for (const auto& model : evaluation.at("models")) {
    rows.push_back({model.at("name"), kv_heads_text(model.at("n_kv_head")),
                    cell(model.at("loss"), 4), cell(model.at("perplexity"), 2),
                    cell(model.at("bits_per_byte"), 4), cell(model.at("choice_accuracy"), 1, 100),
                    cell(model.at("agreement"), 1, 100), cell(model.at("kl"), 4),
                    cell(model.at("kv_bytes_per_token"), 0), speed_cell(model, "1"),
                    speed_cell(model, "16"), cell(model.at("compute_fraction"), 2, 100)});
  }
  return aligned_table(rows);
}

}  // namespace regroup
