#include "models/model_folder.h"

#include <algorithm>
#include <map>
#include <set>

#include "framework/errors/error.h"
#include "framework/files/hash.h"
#include "framework/progress/console.h"
#include "framework/tensors/dtype.h"
#include "models/run_layout.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

/// True counts stand in our own key where Hugging Face's field can only say their least common
/// multiple.
void read_kv_heads_by_layer(const JsonObject& json, DecoderConfig& config) {
  const auto ours = json.find_object("regroup");
  if (!ours) return;
  const auto counts = ours->find_integers("n_kv_head", {1, config.n_head});
  if (!counts) return;
  DecoderConfig stated = config;
  stated.n_kv_head = *counts;
  const auto problems = stated.problems();
  if (!problems.empty())
    throw Error(json.where(), "regroup.n_kv_head: " + problems[0], "The file is damaged.");
  if (stated.kv_head_multiple() != config.n_kv_head[0]) {
    throw Error(json.where(),
                c10::str("num_key_value_heads is ", config.n_kv_head[0],
                         ", but regroup.n_kv_head (", kv_heads_text(*counts),
                         ") has the least common multiple ", stated.kv_head_multiple()),
                "The file is damaged, or only one of the two was edited.");
  }
  config.n_kv_head = *counts;
}

DecoderConfig read_decoder_config(const Family& family, const JsonObject& json) {
  auto config = family.read_config(json);
  read_kv_heads_by_layer(json, config);
  Complaints complaints;
  for (const auto& problem : config.problems()) complaints.add(problem);
  complaints.throw_if_any(json.where(), "The file is damaged, or is not a model of this family.");
  return config;
}

torch::ScalarType most_common_dtype(const TensorFolder& tensors) {
  std::map<torch::ScalarType, int64_t> numbers;
  for (const auto& name : tensors.names()) {
    numbers[tensors.dtype(name)] += c10::multiply_integers(tensors.shape(name));
  }
  const auto most =
      std::max_element(numbers.begin(), numbers.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == numbers.end() ? torch::kFloat32 : most->first;
}

/// Bit for bit, or as numbers where the dtypes differ.
bool have_equal_values(const torch::Tensor& a, const torch::Tensor& b) {
  if (a.sizes() != b.sizes() || a.dim() == 0) return false;  // scalars are no weights
  if (a.scalar_type() == b.scalar_type())
    return torch::equal(a.view(torch::kUInt8), b.view(torch::kUInt8));
  return torch::equal(a.to(torch::kFloat), b.to(torch::kFloat));
}

JsonObject read_model_json(const fs::path& folder) {
  if (!fs::is_directory(folder)) {
    throw Error(folder.string(), "is not a model folder (it is absent, or a file)",
                "Give a folder with config.json and safetensors, or a run's folder.");
  }
  if (!fs::exists(folder / "config.json")) {
    throw Error(folder.string(), "holds no config.json",
                "Give a model folder in Hugging Face layout.");
  }
  return JsonObject::from_file(folder / "config.json");
}

}  // namespace

ModelFolder ModelFolder::open(const fs::path& path) {
  const auto folder = resolve_model_path(path);
  return ModelFolder(folder, read_model_json(folder));
}

ModelFolder::ModelFolder(fs::path path, const JsonObject& json)
    : path_(std::move(path)),
      family_(&family_of(json)),
      config_(read_decoder_config(*family_, json)),
      provenance_(Provenance::from_json(json)),
      text_{special_tokens(json), path_},
      tensors_(TensorFolder::open(path_)),
      dtype_(most_common_dtype(tensors_)) {
  text_.replaced = tensors_.files();
  text_.replaced.insert("config.json");
  keep_head_that_differs();
  check_tensors();
  check_buffers();
  warn_of_unread_files();
}

/// transformers does the same: it ties only equal weights.
void ModelFolder::keep_head_that_differs() {
  const auto head = family_->file_name("head.weight");
  const auto embedding = family_->file_name("embedding.weight");
  const bool has_both = tensors_.contains(head) && tensors_.contains(embedding);
  if (!config_.tie_embeddings || !has_both) return;
  if (have_equal_values(tensors_.tensor(head), tensors_.tensor(embedding))) return;
  config_.tie_embeddings = false;
  warn_once(c10::str(path_.string(), ": config.json ties the output head to the embedding, but ",
                     head, " differs from ", embedding,
                     "; the head is kept and the model is untied"));
}

void ModelFolder::check_tensors() const {
  Complaints complaints;
  std::set<std::string> expected;
  for (const auto& block : decoder_blocks(config_)) {
    for (const auto& parameter : block.parameters) {
      const auto name = family_->file_name(parameter.name);
      expected.insert(name);
      if (!tensors_.contains(name)) {
        complaints.add(c10::str("missing tensor ", name, " ", torch::IntArrayRef(parameter.shape)));
      } else if (tensors_.shape(name) != parameter.shape) {
        complaints.add(c10::str("tensor ", name, " has shape ",
                                torch::IntArrayRef(tensors_.shape(name)), ", config.json makes it ",
                                torch::IntArrayRef(parameter.shape)));
      } else if (!c10::isFloatingType(tensors_.dtype(name))) {
        complaints.add(c10::str("tensor ", name, " is ",
                                dtype_info(tensors_.dtype(name)).short_name,
                                ", expected floating point"));
      }
    }
  }
  const auto tied_head = config_.tie_embeddings ? family_->file_name("head.weight") : "";
  for (const auto& name : tensors_.names()) {
    if (expected.count(name) == 0 && name != tied_head && !family_->buffer(name)) {
      complaints.add(c10::str("tensor ", name, " has no place in a ", family_->name, " model"));
    }
  }
  complaints.throw_if_any(path_.string(),
                          "Is this the whole model, and does config.json belong to it?");
}

void ModelFolder::check_buffers() const {
  std::vector<std::string> differing;
  for (const auto& name : tensors_.names()) {
    const auto* buffer = family_->buffer(name);
    if (buffer && !buffer->agrees(config_, tensors_.tensor(name))) differing.push_back(name);
  }
  if (differing.empty()) return;
  const auto others = differing.size() - 1;
  warn_once(c10::str(path_.string(), ": ", differing.front(),
                     others > 0 ? c10::str(" and ", others, " more like it differ") : " differs",
                     " from what config.json makes of it; config.json's values are used"));
}

void ModelFolder::warn_of_unread_files() const {
  const auto files = tensors_.unread_files();
  if (files.empty()) return;
  warn_once(c10::str(path_.string(), ": the weights are those of ", *tensors_.files().begin(),
                     "; not read: ", c10::Join(", ", files)));
}

torch::Tensor ModelFolder::parameter(const std::string& name) const {
  return tensors_.tensor(family_->file_name(name));
}

torch::ScalarType ModelFolder::parameter_dtype(const std::string& name) const {
  return tensors_.dtype(family_->file_name(name));
}

int64_t ModelFolder::bytes() const {
  int64_t total = 0;
  for (const auto& name : tensors_.names()) {
    total += c10::multiply_integers(tensors_.shape(name)) *
             static_cast<int64_t>(c10::elementSize(tensors_.dtype(name)));
  }
  return total;
}

Decoder load_decoder(const ModelFolder& folder, torch::TensorOptions options,
                     std::shared_ptr<Sharing> sharing) {
  Decoder decoder(folder.config(), options, std::move(sharing));
  load_weights(folder, decoder);
  return decoder;
}

void load_weights(const ModelFolder& folder, Decoder& decoder) {
  const auto* family = &folder.family();
  decoder.set_origin({folder.path().string(),
                      [family](const std::string& name) { return family->file_name(name); }});
  for (auto& block : decoder.blocks()) {
    for (size_t i = 0; i < block.parameters().size(); ++i)
      block.assign(i, folder.parameter(block.parameters()[i].name));
  }
}

std::string weights_hash(const ModelFolder& folder) {
  Hash hash;
  for (const auto& block : decoder_blocks(folder.config())) {
    for (const auto& parameter : block.parameters) {
      const auto values = folder.parameter(parameter.name).contiguous();
      hash.add(parameter.name);
      for (const int64_t size : values.sizes()) hash.add(size);
      hash.add(values.const_data_ptr(), values.nbytes());
    }
  }
  return hash.digits();
}

}  // namespace regroup
