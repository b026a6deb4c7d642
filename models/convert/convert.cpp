#include "models/convert/convert.h"

#include <torch/types.h>

#include "framework/error.h"
#include "models/convert/methods.h"
#include "models/run_layout.h"

namespace regroup {
namespace {

LayerProjections layer_projections(const ModelFolder& source, int64_t layer) {
  const auto& config = source.config();
  const auto projection = [&](const char* name) {
    return source.parameter(c10::str("layers.", layer, ".attention.", name, ".weight"));
  };
  return {{config.n_head, config.n_kv_head[static_cast<size_t>(layer)], config.head_dim},
          projection("q_proj"),
          projection("k_proj"),
          projection("v_proj"),
          projection("o_proj")};
}

/// Converts a layer when the first of its projections is asked for, and keeps it for the others.
class LayerConverter {
 public:
  LayerConverter(const ModelFolder& source, const ConversionPlan& plan, const DecoderConfig& target)
      : source_(source),
        method_(conversion_method(plan.method)),
        seed_(plan.seed),
        target_(target) {}

  const LayerProjections& layer(int64_t index) {
    if (index != index_) {
      current_ = method_.convert(layer_projections(source_, index),
                                 target_.n_kv_head[static_cast<size_t>(index)], {seed_, index});
      index_ = index;
    }
    return current_;
  }

 private:
  const ModelFolder& source_;
  const ConversionMethod& method_;
  uint64_t seed_;
  DecoderConfig target_;
  LayerProjections current_;
  int64_t index_ = -1;
};

/// Where a parameter is one of the projections, the converted one; else the source's.
std::function<torch::Tensor()> parameter_values(const ModelFolder& source,
                                                LayerConverter& converter, const std::string& name,
                                                int64_t layer) {
  const std::pair<const char*, torch::Tensor LayerProjections::*> projections[] = {
      {".q_proj.weight", &LayerProjections::q_proj},
      {".k_proj.weight", &LayerProjections::k_proj},
      {".v_proj.weight", &LayerProjections::v_proj},
      {".o_proj.weight", &LayerProjections::o_proj}};
  for (const auto& [suffix, member] : projections) {
    if (!name.ends_with(suffix)) continue;
    return [&converter, layer, member = member] { return converter.layer(layer).*member; };
  }
  return [&source, name] { return source.parameter(name); };
}

Provenance converted_provenance(const ModelFolder& source, const ConversionPlan& plan) {
  Provenance provenance = source.provenance();
  provenance.original = {model_name(source.path()), weights_hash(source),
                         source.config().n_kv_head};
  provenance.method = plan.method;
  provenance.pretrain_flops += std::exchange(provenance.uptrain_flops, 0);
  provenance.uptrain_steps = 0;
  return provenance;
}

}  // namespace

DecoderConfig converted_config(const DecoderConfig& source, const std::vector<int64_t>& n_kv_head) {
  DecoderConfig config = source;
  config.n_kv_head = kv_heads_per_layer(n_kv_head, source.n_layer, source.n_head);
  for (size_t layer = 0; layer < config.n_kv_head.size(); ++layer) {
    if (source.n_kv_head[layer] % config.n_kv_head[layer] == 0) continue;
    throw request_error("n_kv_head",
                        c10::str(config.n_kv_head[layer], " does not divide the ",
                                 source.n_kv_head[layer], " K/V heads that layer ", layer, " has"),
                        "Heads are pooled in groups of equal size; choose a divisor.");
  }
  return config;
}

void convert_model(const ModelFolder& source, const ConversionPlan& plan,
                   const std::filesystem::path& folder) {
  const auto config = converted_config(source.config(), plan.n_kv_head);
  LayerConverter converter(source, plan, config);
  std::vector<ParameterSource> parameters;
  const auto blocks = decoder_blocks(config);
  for (size_t block = 0; block < blocks.size(); ++block) {
    for (const auto& parameter : blocks[block].parameters) {
      const auto layer = static_cast<int64_t>(block) - 1;
      parameters.push_back({parameter.name,
                            parameter_values(source, converter, parameter.name, layer),
                            source.parameter_dtype(parameter.name)});
    }
  }
  write_model(
      folder,
      {&source.family(), config, source.dtype(), converted_provenance(source, plan), source.text()},
      parameters, kDefaultShardBytes);
}

}  // namespace regroup
