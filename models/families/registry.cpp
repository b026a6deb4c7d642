#include <c10/util/StringUtil.h>

#include <optional>

#include "framework/errors/error.h"
#include "models/families/family.h"

namespace regroup {
namespace {

/// The layer number that name has where pattern has "{}", with all else equal; "" where pattern has
/// no "{}".
std::optional<std::string> matched_layer(const std::string& pattern, const std::string& name) {
  const auto place = pattern.find("{}");
  if (place == std::string::npos)
    return pattern == name ? std::optional<std::string>("") : std::nullopt;
  const auto before = pattern.substr(0, place), after = pattern.substr(place + 2);
  if (name.size() <= before.size() + after.size() || !name.starts_with(before) ||
      !name.ends_with(after)) {
    return std::nullopt;
  }
  const auto layer = name.substr(place, name.size() - before.size() - after.size());
  if (layer.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  return layer;
}

std::string with_layer(std::string pattern, const std::string& layer) {
  const auto place = pattern.find("{}");
  return place == std::string::npos ? pattern : pattern.replace(place, 2, layer);
}

std::string known_names(std::string Family::*field) {
  std::vector<std::string> names;
  for (const auto& family : families()) names.push_back(family.*field);
  return c10::Join(", ", names);
}

}  // namespace

std::string Family::file_name(const std::string& parameter) const {
  for (const auto& tensor : tensors) {
    if (const auto layer = matched_layer(tensor.ours, parameter))
      return with_layer(tensor.theirs, *layer);
  }
  TORCH_CHECK(false, "family ", name, " has no name for ", parameter);
}

const StoredBuffer* Family::buffer(const std::string& tensor) const {
  for (const auto& buffer : buffers) {
    if (matched_layer(buffer.name, tensor)) return &buffer;
  }
  return nullptr;
}

const std::vector<Family>& families() {
  static const std::vector<Family> all{llama_family()};
  return all;
}

const Family& family_of(const JsonObject& json) {
  const auto model_type = json.string("model_type");
  for (const auto& family : families()) {
    if (family.model_type != model_type) continue;
    const auto architectures = json.find_strings("architectures");
    if (architectures && *architectures != std::vector<std::string>{family.architecture}) {
      json.refuse("architectures",
                  c10::str("[\"", family.architecture, "\"], a language model with its head"));
    }
    return family;
  }
  throw Error(json.where(),
              c10::str("model_type \"", model_type, "\" is not a family that Regroup knows"),
              c10::str("Known: ", known_names(&Family::model_type), "."));
}

const Family& family_named(const std::string& name) {
  for (const auto& family : families()) {
    if (family.name == name) return family;
  }
  throw request_error("model.family", c10::str("\"", name, "\" is not a family that Regroup knows"),
                      c10::str("Known: ", known_names(&Family::name), "."));
}

}  // namespace regroup
