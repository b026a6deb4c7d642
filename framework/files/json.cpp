#include "framework/files/json.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "framework/errors/error.h"
#include "framework/files/atomic_write.h"
#include "framework/files/mapped_file.h"
#include "framework/text/human.h"

namespace regroup {
namespace {

using nlohmann::json;

constexpr size_t kMostBytesOfValue = 80;

/// A value for a message: short, on one line.
std::string printed(const json& value) {
  if (value.is_object()) return c10::str("an object of ", value.size(), " keys");
  if (value.is_array() && value.size() > 8)
    return c10::str("an array of ", value.size(), " values");
  return abbreviated(value.dump(-1, ' ', false, json::error_handler_t::replace), kMostBytesOfValue);
}

/// Rejects too deep nesting and repeated keys while the parser runs, before hostile values are
/// built.
class ParseGuard {
 public:
  ParseGuard(const std::string& where, size_t max_depth) : where_(where), max_depth_(max_depth) {}

  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    using Event = json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (static_cast<size_t>(depth) >= max_depth_) {
        throw Error(where_, c10::str("objects and arrays are nested deeper than ", max_depth_),
                    "No file of this kind needs that; get it again from its source.");
      }
      if (event == Event::object_start) keys_.emplace_back();
    } else if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) {
        throw Error(where_, c10::str("the key ", printed(parsed), " stands twice in one object"),
                    "Remove one of them.");
      }
    } else if (event == Event::object_end) {
      keys_.pop_back();
    }
    return true;
  }

 private:
  const std::string& where_;
  size_t max_depth_;
  std::vector<std::set<std::string>> keys_;  // of each open object
};

/// The library's message without its "[json.exception...]" prefix, and with the file's bytes in it
/// made printable.
std::string parser_complaint(const json::exception& error) {
  std::string text = error.what();
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  const auto end_of_prefix = text.find("] ");
  return abbreviated(end_of_prefix == std::string::npos ? text : text.substr(end_of_prefix + 2));
}

[[noreturn]] void complain(const std::string& where, const std::string& path, const json& value,
                           const std::string& expected) {
  throw Error(where, c10::str(path, " is ", printed(value), ", expected ", expected), "");
}

/// One value of a file, with its location for messages.
struct Located {
  const json& value;
  const std::string& where;
  std::string path;

  int64_t integer(IntegerRange range) const;
  double number() const;
  bool boolean() const;
  std::string string() const;
  template <typename T, typename Read>
  std::vector<T> elements(const std::string& kind, Read read) const;
};

std::string described(IntegerRange range) {
  constexpr IntegerRange kAny;
  if (range.min == kAny.min && range.max == kAny.max) return "an integer";
  if (range.max == kAny.max) return c10::str("an integer of at least ", range.min);
  if (range.min == kAny.min) return c10::str("an integer of at most ", range.max);
  return c10::str("an integer from ", range.min, " to ", range.max);
}

int64_t Located::integer(IntegerRange range) const {
  const bool fits = value.is_number_unsigned()
                        ? std::in_range<int64_t>(value.get<uint64_t>())
                        : value.is_number_integer();  // 8.0 and 1e3 are not integers
  if (!fits) complain(where, path, value, described(range));
  const auto integer = value.get<int64_t>();
  if (integer < range.min || integer > range.max) complain(where, path, value, described(range));
  return integer;
}

double Located::number() const {
  if (!value.is_number()) complain(where, path, value, "a number");
  return value.get<double>();
}

bool Located::boolean() const {
  if (!value.is_boolean()) complain(where, path, value, "true or false");
  return value.get<bool>();
}

std::string Located::string() const {
  if (!value.is_string()) complain(where, path, value, "a string");
  return value.get<std::string>();
}

template <typename T, typename Read>
std::vector<T> Located::elements(const std::string& kind, Read read) const {
  if (!value.is_array()) complain(where, path, value, "an array of " + kind);
  std::vector<T> values;
  values.reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) {
    values.push_back(read(Located{value[i], where, c10::str(path, "[", i, "]")}));
  }
  return values;
}

std::vector<int64_t> integers_of(const Located& located, IntegerRange range) {
  return located.elements<int64_t>("integers", [&](const Located& l) { return l.integer(range); });
}

std::vector<std::string> strings_of(const Located& located) {
  return located.elements<std::string>("strings", [](const Located& l) { return l.string(); });
}

}  // namespace

json parse_json(std::string_view text, const std::string& where, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    throw Error(where,
                c10::str("has ", text.size(), " bytes of JSON, the limit is ", limits.max_bytes),
                "No file of this kind needs that; get it again from its source.");
  }
  // By reference: the parser copies its callback.
  ParseGuard guard(where, limits.max_depth);
  try {
    return json::parse(text, std::ref(guard));
  } catch (const json::exception& error) {
    throw Error(where, "is not valid JSON: " + parser_complaint(error),
                "Get the file again or mend it.");
  }
}

json read_json_file(const std::filesystem::path& file, const JsonLimits& limits) {
  const auto bytes = MappedFile::open(file);
  return parse_json({reinterpret_cast<const char*>(bytes->data()), bytes->size()}, file.string(),
                    limits);
}

void write_json_file(const std::filesystem::path& file, const nlohmann::ordered_json& value) {
  using Handler = nlohmann::ordered_json::error_handler_t;
  write_file_atomically(file, value.dump(2, ' ', false, Handler::replace) + "\n");
}

void require_results_file(const std::filesystem::path& file) {
  require_writable(file);
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(file, ignored)) return;
  const auto folder = std::filesystem::absolute(file).parent_path();
  if (std::filesystem::exists(folder / "config.json", ignored)) {
    throw request_error(file.string(), "exists in a model's folder, to which it may belong",
                        "Name a file in another folder.");
  }
  try {
    if (read_json_file(file).is_object()) return;
  } catch (const Error&) {
  }
  throw request_error(file.string(), "exists and holds no results in JSON",
                      "Name another file, or remove this one.");
}

void write_results_file(const std::filesystem::path& file, const nlohmann::ordered_json& value) {
  require_results_file(file);
  write_json_file(file, value);
}

JsonObject::JsonObject(json value, std::string where)
    : JsonObject(std::make_shared<const json>(std::move(value)), nullptr, std::move(where), "") {}

JsonObject::JsonObject(std::shared_ptr<const json> root, const json* value, std::string where,
                       std::string path)
    : root_(std::move(root)),
      value_(value == nullptr ? root_.get() : value),
      where_(std::move(where)),
      path_(std::move(path)),
      read_(std::make_shared<std::set<std::string>>()) {
  if (!value_->is_object()) {
    throw Error(where_, c10::str("holds ", printed(*value_), ", expected a JSON object"),
                "Check that this is the right file.");
  }
}

JsonObject JsonObject::from_file(const std::filesystem::path& file) {
  return JsonObject(read_json_file(file), file.string());
}

std::optional<JsonObject> JsonObject::find_file(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return std::nullopt;
  return from_file(file);
}

const json* JsonObject::find(const std::string& key) const {
  read_->insert(key);
  const auto found = value_->find(key);
  return found == value_->end() || found->is_null() ? nullptr : &*found;
}

const json& JsonObject::require(const std::string& key) const {
  if (const json* value = find(key)) return *value;
  throw Error(where_, path_ + key + (value_->contains(key) ? " is null" : " is missing"),
              "The file needs a value there.");
}

bool JsonObject::has(const std::string& key) const { return find(key) != nullptr; }

std::vector<std::string> JsonObject::keys() const {
  std::vector<std::string> names;
  for (const auto& [key, value] : value_->items()) names.push_back(key);
  return names;
}

int64_t JsonObject::integer(const std::string& key, IntegerRange range) const {
  return Located{require(key), where_, path_ + key}.integer(range);
}

double JsonObject::number(const std::string& key) const {
  return Located{require(key), where_, path_ + key}.number();
}

bool JsonObject::boolean(const std::string& key) const {
  return Located{require(key), where_, path_ + key}.boolean();
}

std::string JsonObject::string(const std::string& key) const {
  return Located{require(key), where_, path_ + key}.string();
}

std::vector<int64_t> JsonObject::integers(const std::string& key, IntegerRange range) const {
  return integers_of({require(key), where_, path_ + key}, range);
}

std::vector<std::string> JsonObject::strings(const std::string& key) const {
  return strings_of({require(key), where_, path_ + key});
}

JsonObject JsonObject::object(const std::string& key) const { return child(key, require(key)); }

std::optional<int64_t> JsonObject::find_integer(const std::string& key, IntegerRange range) const {
  if (!has(key)) return std::nullopt;
  return integer(key, range);
}

std::optional<double> JsonObject::find_number(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return number(key);
}

std::optional<bool> JsonObject::find_boolean(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return boolean(key);
}

std::optional<std::string> JsonObject::find_string(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return string(key);
}

std::optional<std::vector<int64_t>> JsonObject::find_integers(const std::string& key,
                                                              IntegerRange range) const {
  if (!has(key)) return std::nullopt;
  return integers(key, range);
}

std::optional<std::vector<std::string>> JsonObject::find_strings(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return strings(key);
}

std::optional<JsonObject> JsonObject::find_object(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return object(key);
}

JsonObject JsonObject::child(const std::string& key, const json& value) const {
  if (!value.is_object()) complain(where_, path_ + key, value, "an object");
  return JsonObject(root_, &value, where_, path_ + key + ".");
}

const json& JsonObject::raw(const std::string& key) const { return require(key); }

std::vector<std::string> JsonObject::unread_keys() const {
  std::vector<std::string> unread;
  for (const auto& key : keys()) {
    if (!read_->contains(key)) unread.push_back(key);
  }
  return unread;
}

void JsonObject::refuse(const std::string& key, const std::string& expected) const {
  complain(where_, path_ + key, require(key), expected);
}

}  // namespace regroup
