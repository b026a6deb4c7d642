// models/model_folder.h: reads model folders in Hugging Face layout: config.json and weights,
// through a family's table.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "framework/files/json.h"
#include "framework/files/tensor_folder.h"
#include "models/config/decoder_config.h"
#include "models/decoder.h"
#include "models/families/family.h"
#include "models/provenance.h"
#include "models/tokenizer_files.h"

namespace regroup {

/// A model folder that was opened and checked against its config; tensors are read when asked for.
/// Every tensor of the folder is used, named in a warning, or refused: an output head that differs
/// from the embedding makes the model untied, with a warning where tie_word_embeddings says
/// otherwise; warnings name stored buffers that differ from what config.json gives, and safetensors
/// files that hold other tensors.
class ModelFolder {
 public:
  /// path: a model folder; a run's folder, which means its newest checkpoint; or an HDF5 file of
  /// `regroup export`, which means the folder that it was written to, or by itself a model without
  /// a tokenizer. Throws one Error that lists the tensors that are missing, misshapen or unknown.
  static ModelFolder open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  /// The architecture, and that in whose form the files are: the same, or regroup_family().
  const Family& family() const { return *family_; }
  const Family& form() const { return *form_; }
  const DecoderConfig& config() const { return config_; }
  const Provenance& provenance() const { return provenance_; }
  /// The tokenizer of the folder, for a model that is made from this one.
  const TextHandling& text() const { return text_; }
  /// The dtype that most of the file's numbers have.
  torch::ScalarType dtype() const { return dtype_; }
  /// A parameter's values, in the file's dtype.
  torch::Tensor parameter(const ParameterId& id) const;
  torch::ScalarType parameter_dtype(const ParameterId& id) const;
  /// The name of the folder's tensor that holds a parameter.
  std::string tensor_name(const ParameterId& id) const;
  /// Bytes of all tensors.
  int64_t bytes() const;

 private:
  ModelFolder(std::filesystem::path path, const JsonObject& json);
  /// Between a family's names and the folder's, which may lack the family's base.
  std::string in_file(const std::string& name) const;
  std::string with_base(const std::string& name) const;
  void keep_head_that_differs();
  void check_tensors() const;
  void check_buffers() const;
  void warn_of_unread_files() const;

  std::filesystem::path path_;
  const Family *family_, *form_;
  DecoderConfig config_;
  Provenance provenance_;
  TextHandling text_;
  TensorFolder tensors_;
  bool lacks_base_ = false;
  torch::ScalarType dtype_;
};

/// A decoder with the folder's weights, converted to options' dtype.
Decoder load_decoder(const ModelFolder& folder, torch::TensorOptions options,
                     std::shared_ptr<Sharing> sharing = nullptr);
/// Copies the weights into an existing decoder; each rank copies its own shard.
void load_weights(const ModelFolder& folder, Decoder& decoder);

/// A hash of the weights of a model folder (names, shapes, bytes): 16 hexadecimal digits. It
/// finds accidents, not forgeries.
std::string weights_hash(const ModelFolder& folder);

/// The model as the original of one that is made from it. Its license is that of its card, else
/// that of its own original.
Provenance::Original as_original(const ModelFolder& folder);

}  // namespace regroup
