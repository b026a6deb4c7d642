#include "models/model_folder.h"

#include <c10/util/accumulate.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "framework/errors/error.h"
#include "framework/files/hash.h"
#include "framework/files/hdf5_file.h"
#include "framework/progress/console.h"
#include "framework/tensors/dtype.h"
#include "models/card_license.h"
#include "models/config/decoder_json.h"
#include "models/run_layout.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;

/// True counts stand in our own key where Hugging Face's field can only say their least common
/// multiple.
void read_kv_heads_by_layer(const JsonObject& json, DecoderConfig& config) {
  const auto ours = json.find_object("regroup");
  if (!ours) return;
  const auto counts = ours->find_integers("n_kv_head", {1, config.layers[0].attention.n_head});
  if (!counts) return;
  if (counts->size() != config.layers.size()) {
    throw Error(json.where(),
                c10::str("regroup.n_kv_head has ", counts->size(), " numbers for ",
                         config.n_layer(), " layers"),
                "The file is damaged.");
  }
  DecoderConfig stated = config;
  stated.set_n_kv_head(*counts);
  const auto problems = stated.problems();
  if (!problems.empty())
    throw Error(json.where(), "regroup.n_kv_head: " + problems[0], "The file is damaged.");
  if (config.n_kv_head() == *counts) return;
  const auto& first = config.layers[0].attention;
  const bool is_mha = first.n_kv_head == first.n_head;  // as in classes without a field for them
  if (!is_mha && stated.kv_head_multiple() != first.n_kv_head) {
    throw Error(json.where(),
                c10::str("num_key_value_heads is ", config.layers[0].attention.n_kv_head,
                         ", but regroup.n_kv_head (", kv_heads_text(*counts),
                         ") has the least common multiple ", stated.kv_head_multiple()),
                "The file is damaged, or only one of the two was edited.");
  }
  config = stated;
}

/// The decoder computes in float32 at least.
void complain_of_huge_numbers(const DecoderConfig& config, Complaints& complaints) {
  const auto fields = decoder_json(config).flatten();
  for (const auto& [path, value] : fields.items()) {
    const bool fits = !value.is_number_float() ||
                      std::abs(value.get<double>()) <= std::numeric_limits<float>::max();
    if (!fits) complaints.add(c10::str(path, " is ", value.dump(), ", more than float32 can hold"));
  }
}

DecoderConfig read_decoder_config(const Family& family, const JsonObject& json) {
  auto config = read_config(family, json);
  Complaints complaints;
  for (const auto& problem : config.problems()) complaints.add(problem);
  complain_of_huge_numbers(config, complaints);
  complaints.throw_if_any(json.where(), "The file is damaged, or is not a model of this family.");
  read_kv_heads_by_layer(json, config);
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

/// From an HDF5 file that has it as an attribute.
JsonObject json_of_hdf5(const fs::path& file) {
  const auto where = file.string() + ": " + kConfigJson;
  if (const auto text = Hdf5File::open(file).string_attribute("/", kConfigJson))
    return {parse_json(*text, where), where};
  throw Error(file.string(), "is an HDF5 file without a model in it",
              "Give a folder with config.json and weights, a run's folder, or what export --format "
              "hdf5 wrote.");
}

/// "org/name" of a path in the working directory that has no folder "org", as the Hub names models.
std::optional<std::string> hub_name(const fs::path& path) {
  const auto name = fs::absolute(path).lexically_relative(fs::current_path());
  const bool is_name = std::distance(name.begin(), name.end()) == 2 && *name.begin() != "..";
  return is_name && !fs::exists(path.parent_path()) ? std::optional(name.string()) : std::nullopt;
}

JsonObject read_model_json(const fs::path& path) {
  if (fs::is_regular_file(path)) return json_of_hdf5(path);
  if (!fs::is_directory(path)) {
    const auto name = hub_name(path);
    throw Error(path.string(), "is not a model folder (it is absent)",
                name ? "If that is a model of the Hub, `hf download " + *name +
                           " --local-dir DIR` fetches it; then give DIR."
                     : "Give a folder with config.json and safetensors, or a run's folder.");
  }
  if (!fs::exists(path / kConfigJson)) {
    const bool is_adapter = fs::exists(path / "adapter_config.json");
    throw Error(path.string(),
                is_adapter ? "holds an adapter, which is no model without its base"
                           : "holds no config.json",
                is_adapter ? "Merge it with PEFT's merge_and_unload(), and save that model."
                           : "Give a model folder in Hugging Face layout; tools/import_gguf.py "
                             "makes one of a GGUF file.");
  }
  return JsonObject::from_file(path / kConfigJson);
}

}  // namespace

ModelFolder ModelFolder::open(const fs::path& path) {
  const auto folder = resolve_model_path(path);
  return ModelFolder(folder, read_model_json(folder));
}

ModelFolder::ModelFolder(fs::path path, const JsonObject& json)
    : path_(std::move(path)),
      family_(&family_of(json)),
      form_(&form_of(json)),
      config_(read_decoder_config(*form_, json)),
      provenance_(Provenance::from_json(json)),
      text_{special_tokens(json), fs::is_directory(path_) ? path_ : fs::path()},
      tensors_(TensorFolder::open(path_)),
      dtype_(most_common_dtype(tensors_)) {
  const auto embedding = tensor_name({Role::kEmbedding});
  lacks_base_ =
      !tensors_.contains(embedding) && tensors_.contains(embedding.substr(form_->base().size()));
  text_.replaced = tensors_.files();
  text_.replaced.insert(kConfigJson);
  if (!form_->code.file.empty()) text_.replaced.insert(form_->code.file);
  keep_head_that_differs();
  check_tensors();
  check_buffers();
  warn_of_unread_files();
}

/// transformers does the same: it ties only equal weights.
void ModelFolder::keep_head_that_differs() {
  const auto head = tensor_name({Role::kHead}), embedding = tensor_name({Role::kEmbedding});
  const bool has_both = tensors_.contains(head) && tensors_.contains(embedding);
  if (!config_.head.tied || !has_both) return;
  if (have_equal_values(tensors_.tensor(head), tensors_.tensor(embedding))) return;
  config_.head.tied = false;
  warn_once(c10::str(path_.string(), ": config.json ties the output head to the embedding, but ",
                     head, " differs from ", embedding,
                     "; the head is kept and the model is untied"));
}

void ModelFolder::check_tensors() const {
  Complaints complaints;
  std::set<std::string> expected;
  for (const auto& tensor : stored_tensors(*form_, config_)) {
    const auto name = in_file(tensor.name);
    const auto shape = tensor.shape();
    expected.insert(name);
    if (!tensors_.contains(name)) {
      complaints.add(c10::str("missing tensor ", name, " ", torch::IntArrayRef(shape)));
    } else if (tensors_.shape(name) != shape) {
      complaints.add(c10::str("tensor ", name, " has shape ",
                              torch::IntArrayRef(tensors_.shape(name)), ", config.json makes it ",
                              torch::IntArrayRef(shape)));
    } else if (!c10::isFloatingType(tensors_.dtype(name))) {
      complaints.add(c10::str("tensor ", name, " is ", dtype_info(tensors_.dtype(name)).short_name,
                              ", expected floating point"));
    }
  }
  const auto tied_head = config_.head.tied ? tensor_name({Role::kHead}) : "";
  for (const auto& name : tensors_.names()) {
    if (expected.count(name) == 0 && name != tied_head && !form_->buffer(with_base(name))) {
      complaints.add(c10::str("tensor ", name, " has no place in a ", form_->name, " model"));
    }
  }
  complaints.throw_if_any(path_.string(),
                          "Is this the whole model, and does config.json belong to it?");
}

void ModelFolder::check_buffers() const {
  std::vector<std::string> differing;
  for (const auto& name : tensors_.names()) {
    const auto* buffer = form_->buffer(with_base(name));
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

std::string ModelFolder::in_file(const std::string& name) const {
  const bool is_cut = lacks_base_ && name.starts_with(form_->base());
  return is_cut ? name.substr(form_->base().size()) : name;
}

std::string ModelFolder::with_base(const std::string& name) const {
  return lacks_base_ ? form_->base() + name : name;
}

std::string ModelFolder::tensor_name(const ParameterId& id) const {
  return in_file(form_->rule(id.role, config_).tensor_name(id));
}

torch::Tensor ModelFolder::parameter(const ParameterId& id) const {
  const auto& rule = form_->rule(id.role, config_);
  if (!rule.by_head) return rule.unpacked(tensors_.tensor(tensor_name(id)), config_, id);
  std::vector<torch::Tensor> heads;
  const auto& attention = config_.layer(id.layer.value()).attention;
  const int64_t n = id.role == Role::kQueryNorm ? attention.n_head : attention.n_kv_head;
  for (int64_t head = 0; head < n; ++head)
    heads.push_back(tensors_.tensor(in_file(rule.tensor_name(id, head))));
  return torch::stack(heads);
}

torch::ScalarType ModelFolder::parameter_dtype(const ParameterId& id) const {
  return tensors_.dtype(tensor_name(id));
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
  decoder.set_origin({folder.path().string(),
                      [family = &folder.form(), config = folder.config()](const ParameterId& id) {
                        return family->rule(id.role, config).tensor_name(id);
                      }});
  for (size_t block = 0; block < decoder.blocks().size(); ++block) {
    const auto& parameters = decoder.block_specs()[block].parameters;
    for (size_t i = 0; i < parameters.size(); ++i)
      decoder.blocks()[block].assign(i, folder.parameter(parameters[i].id));
  }
}

std::string weights_hash(const ModelFolder& folder) {
  Hash hash;
  for (const auto& block : decoder_blocks(folder.config())) {
    for (const auto& parameter : block.parameters) {
      const auto values = folder.parameter(parameter.id).contiguous();
      hash.add(parameter.spec.name);
      for (const int64_t size : values.sizes()) hash.add(size);
      hash.add(values.const_data_ptr(), values.nbytes());
    }
  }
  return hash.digits();
}

Provenance::Original as_original(const ModelFolder& folder) {
  auto license = card_license(folder.path());
  const auto& own = folder.provenance().original;
  if (license.empty() && own) license = own->license;
  return {model_name(folder.path()), weights_hash(folder), folder.config().n_kv_head(), license};
}

}  // namespace regroup
