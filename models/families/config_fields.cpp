#include "models/families/config_fields.h"

#include <c10/util/StringUtil.h>

#include <algorithm>

#include "framework/progress/console.h"

namespace regroup {
namespace {

// What follows takes memory for each, before a tensor is looked for.
constexpr IntegerRange kLayers{1, 10'000};

}  // namespace

template <typename T, typename Find, typename Require>
void ConfigFields::field(const std::string& key, T& value, const std::optional<T>& absent,
                         const Find& find, const Require& require) {
  if (writing_) return write(key, value);
  if (json_) {
    value = absent ? find().value_or(*absent) : require();
  } else if (value == T() && absent) {
    value = *absent;
  }
}

void ConfigFields::size(const std::string& key, int64_t& value, std::optional<int64_t> absent,
                        IntegerRange range) {
  field<int64_t>(
      key, value, absent, [&] { return json_->find_integer(key, range); },
      [&] { return json_->integer(key, range); });
}

void ConfigFields::number(const std::string& key, double& value, std::optional<double> absent) {
  if (!writing_ && !json_) return;  // every number of a config has a default
  field<double>(
      key, value, absent, [&] { return json_->find_number(key); },
      [&] { return json_->number(key); });
}

void ConfigFields::flag(const std::string& key, bool& value, bool absent) {
  field<bool>(
      key, value, absent, [&] { return json_->find_boolean(key); },
      [&] { return json_->boolean(key); });
}

std::string ConfigFields::spelled(const std::vector<std::string>& keys) const {
  for (const auto& key : keys) {
    if (json_ && json_->has(key)) return key;
  }
  return keys.front();
}

bool ConfigFields::is_in_file(const std::string& key) const {
  const auto keys = json_->keys();
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

void ConfigFields::optional_size(const std::string& key, std::optional<int64_t>& value,
                                 std::optional<int64_t> absent) {
  if (writing_) return write(key, value ? nlohmann::ordered_json(*value) : nullptr);
  if (!json_) return;  // a new model has what it is given
  value = is_in_file(key) ? json_->find_integer(key, kPositive) : absent;
}

void ConfigFields::optional_number(const std::string& key, std::optional<double>& value,
                                   std::optional<double> absent) {
  if (writing_) return write(key, value ? nlohmann::ordered_json(*value) : nullptr);
  value = json_ && is_in_file(key) ? json_->find_number(key) : absent;
}

std::string ConfigFields::read_name(const std::string& key, const std::vector<std::string>& names,
                                    const std::string& absent) const {
  if (!json_) return absent;
  const auto name = json_->find_string(key).value_or(absent);
  if (std::find(names.begin(), names.end(), name) == names.end())
    json_->refuse(key, c10::str("one of ", c10::Join(", ", names)));
  return name;
}

void ConfigFields::fixed(const std::string& key, const std::vector<nlohmann::json>& accepted) {
  if (writing_) return write(key, accepted.front());
  if (!json_ || !json_->has(key)) return;
  if (std::find(accepted.begin(), accepted.end(), json_->raw(key)) == accepted.end())
    json_->refuse(key, accepted.front().dump() + ", all that this decoder implements");
}

void ConfigFields::expect(const std::string& key, const nlohmann::json& accepted) {
  if (!writing_) fixed(key, {accepted});
}

void ConfigFields::layers(const std::string& key, DecoderConfig& config) {
  int64_t n_layer = config.n_layer();
  size(key, n_layer, std::nullopt, kLayers);
  config.layers.resize(static_cast<size_t>(n_layer));
}

void ConfigFields::object(const std::string& key, const std::function<void(ConfigFields&)>& visit) {
  const auto child = json_ ? json_->find_object(key) : std::nullopt;
  const JsonObject empty(nlohmann::json::object(), json_ ? json_->where() : "");
  ConfigFields own(json_ ? (child ? &*child : &empty) : nullptr, writing_);
  visit(own);
  if (writing_) write(key, own.written_);
  for (const auto& conflict : own.conflicts_) add_conflict(key + "." + conflict);
}

void ConfigFields::write(const std::string& key, const nlohmann::ordered_json& value) {
  if (!written_.contains(key)) {
    written_[key] = value;
  } else if (written_[key] != value) {
    add_conflict(key);
  }
}

void ConfigFields::add_conflict(const std::string& what) {
  if (std::find(conflicts_.begin(), conflicts_.end(), what) == conflicts_.end())
    conflicts_.push_back(what);
}

void ConfigFields::warn_of_unknown(const std::vector<std::string>& harmless,
                                   const std::string& path) const {
  if (!json_) return;
  std::vector<std::string> unknown;
  for (const auto& key : json_->unread_keys()) {
    if (std::find(harmless.begin(), harmless.end(), key) == harmless.end())
      unknown.push_back(path + key);
  }
  if (!unknown.empty())
    warn_once(
        c10::str(json_->where(), ": unknown fields are passed over: ", c10::Join(", ", unknown)));
}

}  // namespace regroup
