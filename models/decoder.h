// models/decoder.h: the decoder language model: embedding, blocks, final norm, output head.
#pragma once

#include <torch/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "framework/functions/cross_entropy.h"
#include "framework/kernels/kernels.h"
#include "framework/parameters/flat_parameters.h"
#include "models/config/decoder_config.h"
#include "models/config/decoder_parameters.h"
#include "models/layers/kv_cache.h"
#include "models/layers/rope.h"

namespace regroup {

/// A decoder over blocks of flat parameters. B is sequences, T positions; tokens are int64.
class Decoder {
 public:
  /// Uninitialised parameters of options' dtype and device, sharded by `sharing` if given. The
  /// config must have no problems().
  Decoder(const DecoderConfig& config, torch::TensorOptions options,
          std::shared_ptr<Sharing> sharing = nullptr);

  /// Where the weights came from, for messages.
  struct Origin {
    std::string where = "the model";  // a folder
    /// A parameter's name in the folder's files.
    std::function<std::string(const ParameterId&)> name_in_file = &ParameterId::name;
  };
  const Origin& origin() const { return origin_; }
  void set_origin(Origin origin) { origin_ = std::move(origin); }

  const DecoderConfig& config() const { return config_; }
  torch::TensorOptions options() const { return options_; }

  /// tokens: [B, T] -> the last block's output after the final norm, [B * T, d_model], and the
  /// output projection. With a cache, the tokens continue the cached positions and are added to the
  /// cache; T must fit its capacity.
  Predictions predictions(const torch::Tensor& tokens, KvCache* cache = nullptr);
  /// True where keys that were cached in a sequence of `past` positions do not serve one of
  /// `total`: LongRoPE turns them otherwise.
  bool cache_ends_between(int64_t past, int64_t total) const {
    return ropes_.change_between(past, total);
  }
  /// tokens: [B, T] -> logits [B, T, vocab_size] in the model's dtype.
  torch::Tensor logits(const torch::Tensor& tokens);
  /// tokens: [B, T] -> the first layer whose output is not finite, if any.
  std::optional<int64_t> first_nonfinite_layer(const torch::Tensor& tokens);
  /// tokens: [B, T + 1] -> scalar: scale * sum of the cross-entropies of tokens 1 .. T given the
  /// tokens before them.
  torch::Tensor loss(const torch::Tensor& tokens, double scale);

  /// The distillation loss with a teacher of the same vocabulary, which runs without a graph:
  /// scale * sum of kernels::distillation_.
  torch::Tensor distillation_loss(const torch::Tensor& tokens, Decoder& teacher,
                                  const kernels::Distillation& distillation, double scale);

  /// The blocks in order: embedding, layers, final norm (and head).
  std::vector<FlatParameters>& blocks() { return blocks_; }
  const std::vector<FlatParameters>& blocks() const { return blocks_; }
  /// What each of blocks() holds.
  const std::vector<DecoderBlock>& block_specs() const { return block_specs_; }
  /// A view of a parameter's values, without a graph. Throws c10::Error for one that the model
  /// lacks.
  torch::Tensor parameter(const ParameterId& id) const;

  /// Enables gradients. checkpoint_activations keeps only the blocks' inputs for backward
  /// and recomputes the rest.
  void enable_training(bool checkpoint_activations);
  /// A training step calls zero_gradients, then begin_pass, loss and backward for every
  /// micro-batch, then finish_exchanges. One process needs only zero_gradients.
  void zero_gradients();
  /// is_last: this is the step's last micro-batch, so gradients are summed over the replicas.
  void begin_pass(bool is_last);
  /// Waits for all exchanges: gradients are summed, and values updated by other ranks have arrived.
  void finish_exchanges();

 private:
  torch::Tensor embedded(const torch::Tensor& tokens, int64_t past) const;
  torch::Tensor layer_forward(int64_t index, const torch::Tensor& x, int64_t batch,
                              const RopeAngles& angles, KvCache* cache) const;

  DecoderConfig config_;
  Origin origin_;
  torch::TensorOptions options_;
  std::shared_ptr<Sharing> sharing_;  // null: one process
  std::vector<DecoderBlock> block_specs_;
  std::vector<FlatParameters> blocks_;
  LayerRopes ropes_;
  bool checkpoint_activations_ = false;
};

/// Draws random initial weights; each tensor's generator is seeded with seed and the tensor's name.
void initialize(Decoder& decoder, uint64_t seed);

}  // namespace regroup
