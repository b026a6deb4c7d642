// models/families/config_fields.h: one pass over the fields of a config.json. A family says each
// field once; the direction of the pass decides which way its value goes.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "framework/files/json.h"
#include "models/config/decoder_config.h"

namespace regroup {

/// Sizes: products of two stay within int64.
constexpr IntegerRange kPositive{1, int64_t{1} << 31};

class ConfigFields {
 public:
  /// From config.json into the config. json must outlive this.
  static ConfigFields reading(const JsonObject& json) { return ConfigFields(&json, false); }
  /// From the config into a config.json.
  static ConfigFields writing() { return ConfigFields(nullptr, true); }
  /// Fills what a config leaves open (0, empty) with the architecture's defaults.
  static ConfigFields for_new_model() { return ConfigFields(nullptr, false); }

  bool is_writing() const { return writing_; }
  /// The first of a field's spellings that the file has; the first of all in other directions.
  std::string spelled(const std::vector<std::string>& keys) const;
  /// The file that is read; null in the other directions.
  const JsonObject* json() const { return json_; }

  /// A field of a scalar's type. absent: the value where a file lacks the key; without it a missing
  /// key is an Error. Malformed values are Errors. Two values for one key are a conflict.
  void size(const std::string& key, int64_t& value, std::optional<int64_t> absent = std::nullopt,
            IntegerRange range = kPositive);
  void number(const std::string& key, double& value, std::optional<double> absent = std::nullopt);
  void flag(const std::string& key, bool& value, bool absent);
  /// A number that may be null in the file: then the config has none.
  void optional_size(const std::string& key, std::optional<int64_t>& value,
                     std::optional<int64_t> absent = std::nullopt);
  void optional_number(const std::string& key, std::optional<double>& value,
                       std::optional<double> absent = std::nullopt);
  /// A field that names one of several values; the first name of a value is written.
  template <typename T>
  void choice(const std::string& key, T& value, const std::vector<std::pair<std::string, T>>& names,
              const std::string& absent);
  /// A field that a file may lack, with the only values that the decoder implements; others are
  /// Errors. The first is written.
  void fixed(const std::string& key, const std::vector<nlohmann::json>& accepted);
  /// As fixed(), for a key of other architectures, which is not written.
  void expect(const std::string& key, const nlohmann::json& accepted);
  /// What the architecture does not let a file say: the config's value must be `expected`.
  template <typename T>
  void constant(const std::string& what, T& value, const T& expected) {
    if (!writing_) {
      value = expected;
    } else if (!(value == expected)) {
      add_conflict(what);
    }
  }
  /// The number of layers; a config that is read gets as many.
  void layers(const std::string& key, DecoderConfig& config);

  /// The fields of an object within, said by `visit`.
  void object(const std::string& key, const std::function<void(ConfigFields& own)>& visit);
  /// Notes what one config.json of the architecture cannot say.
  void add_conflict(const std::string& what);
  /// Writes a value beside those of fields.
  void write(const std::string& key, const nlohmann::ordered_json& value);
  /// Warns of keys that nothing has read, less those that change nothing that Regroup computes.
  /// path: of the object that is read, for the warning: "rope_scaling.".
  void warn_of_unknown(const std::vector<std::string>& harmless,
                       const std::string& path = "") const;

  /// The fields written, in order.
  const nlohmann::ordered_json& written() const { return written_; }
  /// The fields and constants of which one config.json cannot say what the config holds.
  const std::vector<std::string>& conflicts() const { return conflicts_; }

 private:
  bool is_in_file(const std::string& key) const;
  std::string read_name(const std::string& key, const std::vector<std::string>& names,
                        const std::string& absent) const;
  ConfigFields(const JsonObject* json, bool writing) : json_(json), writing_(writing) {}
  template <typename T, typename Find, typename Require>
  void field(const std::string& key, T& value, const std::optional<T>& absent, const Find& find,
             const Require& require);

  const JsonObject* json_;
  bool writing_;
  nlohmann::ordered_json written_ = nlohmann::ordered_json::object();
  std::vector<std::string> conflicts_;
};

template <typename T>
void ConfigFields::choice(const std::string& key, T& value,
                          const std::vector<std::pair<std::string, T>>& names,
                          const std::string& absent) {
  if (writing_) {
    for (const auto& [name, meant] : names) {
      if (meant == value) return write(key, name);
    }
    return add_conflict(key);
  }
  std::vector<std::string> known;
  for (const auto& [name, meant] : names) known.push_back(name);
  const auto found = read_name(key, known, absent);
  for (const auto& [name, meant] : names) {
    if (name == found) value = meant;
  }
}

}  // namespace regroup
