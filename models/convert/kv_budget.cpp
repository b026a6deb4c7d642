#include "models/convert/kv_budget.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "framework/errors/error.h"
#include "framework/progress/progress.h"

namespace regroup {
namespace {

int64_t total_heads(const DecoderConfig& config) {
  const auto heads = config.n_kv_head();
  return std::accumulate(heads.begin(), heads.end(), int64_t{0});
}

int64_t budget_heads(const DecoderConfig& source, double kv_budget) {
  return static_cast<int64_t>(
      std::floor(kv_budget * static_cast<double>(total_heads(source)) + 1e-9));
}

/// Every number of heads that the layer could keep. pass: the calibration at this layer; null
/// without text.
std::vector<HeadChoice> head_choices(const LayerProjections& layer, int64_t index,
                                     const LayerPooling& pooling, CalibrationPass* pass) {
  const auto context = pooling.context(index, pass);
  std::vector<HeadChoice> choices;
  for (int64_t heads = 1; heads < layer.shape.n_kv_head; ++heads) {
    if (layer.shape.n_kv_head % heads != 0) continue;
    const auto partition = pooling.partition(layer, heads, context);
    const double error =
        pass ? pass->layer_error(pool_layer(layer, partition, pooling.method(), context), partition)
                   .stream
             : relative_pooling_error(layer, partition, pooling.method(), context);
    choices.push_back({heads, error});
  }
  choices.push_back({layer.shape.n_kv_head, 0});
  return choices;
}

}  // namespace

std::vector<int64_t> best_allocation(const std::vector<std::vector<HeadChoice>>& layers,
                                     int64_t budget) {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  if (budget < 0) return {};
  const auto width = static_cast<size_t>(budget) + 1;
  // least[l][b]: the least error of layers l and after with b heads left; taken: layer l's choice.
  std::vector<std::vector<double>> least(layers.size() + 1, std::vector<double>(width, 0));
  std::vector<std::vector<int64_t>> taken(layers.size(), std::vector<int64_t>(width, 0));
  for (size_t layer = layers.size(); layer-- > 0;) {
    for (size_t left = 0; left < width; ++left) {
      least[layer][left] = kNever;
      for (const auto& choice : layers[layer]) {
        if (choice.n_kv_head > static_cast<int64_t>(left)) continue;
        const double error =
            choice.error + least[layer + 1][left - static_cast<size_t>(choice.n_kv_head)];
        if (error >= least[layer][left]) continue;
        least[layer][left] = error;
        taken[layer][left] = choice.n_kv_head;
      }
    }
  }
  if (least[0][width - 1] == kNever) return {};
  std::vector<int64_t> allocation;
  size_t left = width - 1;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    allocation.push_back(taken[layer][left]);
    left -= static_cast<size_t>(allocation.back());
  }
  return allocation;
}

void check_budget(const DecoderConfig& source, double kv_budget) {
  if (budget_heads(source, kv_budget) >= source.n_layer()) return;
  throw request_error(
      "kv_budget",
      c10::str(kv_budget, " of the K/V bytes is less than one K/V head in each of the ",
               source.n_layer(), " layers"),
      c10::str("The least that can be kept is ",
               static_cast<double>(source.n_layer()) / static_cast<double>(total_heads(source)),
               "."));
}

std::vector<int64_t> heads_within_budget(const ModelFolder& source, double kv_budget,
                                         const LayerPooling& pooling, const CalibrationText* text,
                                         const std::filesystem::path& scratch, World& world) {
  std::optional<CalibrationPass> pass;
  if (text) pass.emplace(source, *text, scratch, world);
  const int64_t n_layer = source.config().n_layer();
  ProgressLine progress({.label = "choosing heads", .total = n_layer, .round = "layer"});
  std::vector<std::vector<HeadChoice>> layers;
  for (int64_t index = 0; index < n_layer; ++index) {
    layers.push_back(
        head_choices(layer_projections(source, index), index, pooling, pass ? &*pass : nullptr));
    if (pass) pass->advance();
    progress.update(index + 1);
  }
  return best_allocation(layers, budget_heads(source.config(), kv_budget));
}

}  // namespace regroup
