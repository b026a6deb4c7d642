// models/hf_checkpoint.h: model folders in Hugging Face layout: config.json and safetensors, read
// and written through a family's table.
#pragma once

#include <torch/types.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "framework/files/safetensors.h"
#include "framework/files/tensor_folder.h"
#include "models/decoder.h"
#include "models/decoder_config.h"
#include "models/families/family.h"

namespace regroup {

/// What made a model: the key "regroup" of its config.json.
struct Provenance {
  struct Original {
    std::string name;
    std::string hash;                // of its weights
    std::vector<int64_t> n_kv_head;  // one a layer, before conversion
  };
  /// How its heads were pooled, in the words of [convert].
  struct Conversion {
    std::string method, grouping = "neighbours", refit = "none";
    std::optional<double> kv_budget;
    std::string calibration;  // fingerprint of the text; empty: none
    int64_t calibration_tokens = 0;
    bool operator==(const Conversion&) const = default;
  };
  std::optional<Original> original;  // where the model was converted
  Conversion conversion;
  std::optional<int64_t> pretrain_steps;  // of the original, where known
  int64_t uptrain_steps = 0;
  int64_t tokens_seen = 0;  // in training by Regroup, pretraining included
  double pretrain_flops = 0;
  double uptrain_flops = 0;  // conversion, teacher and training since the original

  nlohmann::ordered_json to_json(const DecoderConfig& config) const;
  static Provenance from_json(const JsonObject& json);
};

/// How a model's tokens are text: what travels with it and changes no logit.
struct TextHandling {
  nlohmann::json special_tokens =
      nlohmann::json::object();          // config.json's bos_, eos_ and pad_token_id
  std::filesystem::path tokenizer_from;  // a folder whose tokenizer files are copied; empty: none
  std::string tokenizer_json;            // the text of tokenizer.json, where there is no folder
};

/// A model folder that was opened and checked against its config; tensors are read when asked for.
class ModelFolder {
 public:
  /// path: a model folder, or a run's folder, which means its newest checkpoint. Throws Error for
  /// anything missing, misshapen or left over, all of it at once.
  static ModelFolder open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const Family& family() const { return *family_; }
  const DecoderConfig& config() const { return config_; }
  const Provenance& provenance() const { return provenance_; }
  /// The tokenizer files in this folder, and its special tokens.
  const TextHandling& text() const { return text_; }
  /// The dtype that most of the file's numbers have.
  torch::ScalarType dtype() const { return dtype_; }
  /// A parameter by our name ("layers.0.attention.q_proj.weight"), in the file's dtype.
  torch::Tensor parameter(const std::string& name) const;
  torch::ScalarType parameter_dtype(const std::string& name) const;
  /// Bytes of all tensors.
  int64_t bytes() const;

 private:
  ModelFolder(std::filesystem::path path, const JsonObject& json);
  void check_tensors() const;

  std::filesystem::path path_;
  const Family* family_;
  DecoderConfig config_;
  Provenance provenance_;
  TextHandling text_;
  TensorFolder tensors_;
  torch::ScalarType dtype_;
};

/// A decoder with the folder's weights, converted to options' dtype.
Decoder load_decoder(const ModelFolder& folder, torch::TensorOptions options,
                     std::shared_ptr<Sharing> sharing = nullptr);
/// The weights into a decoder that there is, as far as this process holds them.
void load_weights(const ModelFolder& folder, Decoder& decoder);

/// A parameter to write: by our name, made when its turn comes.
struct ParameterSource {
  std::string name;
  std::function<torch::Tensor()> values;
  std::optional<torch::ScalarType> dtype =
      std::nullopt;  // in the file; the description's unless told
  int writer = 0;    // which of several processes writes it
};

/// What a model folder holds beside its weights.
struct ModelDescription {
  const Family* family;
  DecoderConfig config;
  torch::ScalarType dtype;
  Provenance provenance;
  TextHandling text;
};

/// Writes config.json and the tokenizer into a folder that exists.
void write_description(const std::filesystem::path& folder, const ModelDescription& description);

/// The same, and the weights; where these have several writers, only this one's, and the first
/// writes all else. -> the names of the files of weights that were written.
std::vector<std::string> write_model(const std::filesystem::path& folder,
                                     const ModelDescription& description,
                                     const std::vector<ParameterSource>& parameters,
                                     int64_t max_shard_bytes, int writer = 0);

/// The decoder's parameters as sources, in the decoder's order.
std::vector<ParameterSource> parameter_sources(const Decoder& decoder);

/// A hash of the weights of a model folder (names, shapes, bytes): 16 hexadecimal digits; no
/// defence against forgery.
std::string weights_hash(const ModelFolder& folder);

constexpr int64_t kDefaultShardBytes = 5'000'000'000;

}  // namespace regroup
