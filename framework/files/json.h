// framework/files/json.h: reads JSON from files that may be hostile, with errors that name file and
// key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace regroup {

struct JsonLimits {
  size_t max_bytes = size_t{64} << 20;
  size_t max_depth = 64;  // objects and arrays inside each other
};

/// Parses a document. Throws Error, with `where` in front, for text that is not JSON, is larger or
/// deeper than the limits (checked while parsing), or repeats a key in an object.
nlohmann::json parse_json(std::string_view text, const std::string& where,
                          const JsonLimits& limits = {});

/// Reads and parses a file; errors name it.
nlohmann::json read_json_file(const std::filesystem::path& file, const JsonLimits& limits = {});

/// Writes a document atomically: two spaces per level, keys in the order of the value (sorted for
/// nlohmann::json), a final newline. Numbers read back exactly; bytes that are not UTF-8 are
/// replaced.
void write_json_file(const std::filesystem::path& file, const nlohmann::ordered_json& value);

/// Throws a request Error where no results can be written to a file: it cannot be made, holds
/// something other than a JSON object, or belongs to a model folder. A job says so before it works.
void require_results_file(const std::filesystem::path& file);
/// write_json_file() after require_results_file(): what a job itself wrote there meanwhile stays.
void write_results_file(const std::filesystem::path& file, const nlohmann::ordered_json& value);

/// Both ends inclusive.
struct IntegerRange {
  int64_t min = std::numeric_limits<int64_t>::min();
  int64_t max = std::numeric_limits<int64_t>::max();
};

/// One JSON object whose values are read by type. Every error names the file, the key's path, the
/// value found and what was expected: `config.json: rope_parameters.rope_theta is "x", expected a
/// number`. The find_ functions return nullopt where the key is absent or null; the other
/// functions throw.
class JsonObject {
 public:
  /// where: the file, for messages. Throws Error when the value is not an object.
  JsonObject(nlohmann::json value, std::string where);
  static JsonObject from_file(const std::filesystem::path& file);
  /// nullopt where the file does not exist.
  static std::optional<JsonObject> find_file(const std::filesystem::path& file);

  const std::string& where() const { return where_; }
  /// True when the key is present and not null.
  bool has(const std::string& key) const;
  std::vector<std::string> keys() const;

  int64_t integer(const std::string& key, IntegerRange range = {}) const;
  /// A finite number; may be an integer.
  double number(const std::string& key) const;
  bool boolean(const std::string& key) const;
  std::string string(const std::string& key) const;
  std::vector<int64_t> integers(const std::string& key, IntegerRange range = {}) const;
  std::vector<std::string> strings(const std::string& key) const;
  JsonObject object(const std::string& key) const;

  std::optional<int64_t> find_integer(const std::string& key, IntegerRange range = {}) const;
  std::optional<double> find_number(const std::string& key) const;
  std::optional<bool> find_boolean(const std::string& key) const;
  std::optional<std::string> find_string(const std::string& key) const;
  std::optional<std::vector<int64_t>> find_integers(const std::string& key,
                                                    IntegerRange range = {}) const;
  std::optional<std::vector<std::string>> find_strings(const std::string& key) const;
  std::optional<JsonObject> find_object(const std::string& key) const;

  /// The parsed value, for types without a typed reader. Throws where the key is absent.
  const nlohmann::json& raw(const std::string& key) const;

  /// The keys that have not been read so far, sorted: those that the reader of this object ignores.
  std::vector<std::string> unread_keys() const;

  /// Throws the Error "file: path.key is VALUE, expected `expected`" for a key that is present.
  [[noreturn]] void refuse(const std::string& key, const std::string& expected) const;

 private:
  JsonObject(std::shared_ptr<const nlohmann::json> root, const nlohmann::json* value,
             std::string where, std::string path);
  const nlohmann::json* find(const std::string& key) const;
  const nlohmann::json& require(const std::string& key) const;
  JsonObject child(const std::string& key, const nlohmann::json& value) const;

  std::shared_ptr<const nlohmann::json> root_;
  const nlohmann::json* value_;  // inside root_
  std::string where_;
  std::string path_;  // "" or "rope_parameters."
  std::shared_ptr<std::set<std::string>> read_;
};

}  // namespace regroup
