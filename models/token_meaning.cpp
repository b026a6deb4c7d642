#include "models/token_meaning.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "framework/errors/error.h"
#include "framework/files/hdf5_file.h"
#include "framework/files/json.h"
#include "framework/progress/console.h"
#include "models/generation_config.h"
#include "models/tokenizer_vocabulary.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// The parts of tokenizer.json that turn plain text into ids, in the order in which they act.
constexpr const char* kParts[] = {"normalizer", "added_tokens", "pre_tokenizer", "model"};

std::string read_tokenizer(const fs::path& folder) {
  const auto file = folder / "tokenizer.json";
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return "";
  if (fs::file_size(file, ignored) > JsonLimits().max_bytes)
    throw Error(file.string(), "is larger than a tokenizer can be", "Get the file again.");
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// The id of the eos_token that tokenizer_config.json names.
std::optional<int64_t> tokenizer_eos_id(const fs::path& folder, const std::string& tokenizer) {
  const auto config = JsonObject::find_file(folder / "tokenizer_config.json");
  if (!config || !config->has("eos_token") || tokenizer.empty()) return std::nullopt;
  const auto name = special_token_text(config->raw("eos_token"));
  if (!name) return std::nullopt;
  const auto json = parse_json(tokenizer, (folder / "tokenizer.json").string());
  return TokenizerVocabulary(json).id_of(*name);
}

/// What older versions of `tokenizers` leave out: null, false, "", 0, and flags whose default is
/// true.
bool is_default(const std::string& key, const Json& value) {
  if (value.is_boolean()) return value == (key == "use_regex" || key == "split");
  return value.is_null() || value == "" || (key == "dropout" && value == 0.0);
}

/// Metaspace says in `prepend_scheme` what it said in `add_prefix_space`; other pre-tokenizers keep
/// add_prefix_space.
void respell_metaspace(Json& object) {
  const auto type = object.find("type");
  if (type == object.end() || *type != "Metaspace") return;
  if (!object.contains("prepend_scheme")) {
    const bool adds = object.value("add_prefix_space", Json(true)) != false;
    object["prepend_scheme"] = adds ? "always" : "never";
  }
  for (const char* key : {"add_prefix_space", "str_rep"}) object.erase(key);
}

/// Drops everything that changes no id.
void reduce(Json& value) {
  if (value.is_object()) {
    respell_metaspace(value);
    for (auto member = value.begin(); member != value.end();) {
      const bool changes_nothing =
          member.key() == "trim_offsets" || is_default(member.key(), member.value());
      if (changes_nothing) {
        member = value.erase(member);
      } else {
        reduce(member.value());
        ++member;
      }
    }
  } else if (value.is_array()) {
    for (auto& element : value) reduce(element);
  }
}

/// Merges as "a b"; older files hold these, newer ones pairs. Their model may lack its type.
Json reduced_model(Json model) {
  if (!model.is_object()) return model;
  Json vocab = std::move(model["vocab"]), merges = std::move(model["merges"]);
  model.erase("vocab");
  model.erase("merges");
  reduce(model);
  for (auto& merge : merges) {
    const bool is_pair =
        merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    if (is_pair) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  if (!merges.is_null() && !model.contains("type")) model["type"] = "BPE";
  model["vocab"] = std::move(vocab);
  model["merges"] = std::move(merges);
  return model;
}

/// Sorted by id, as newer versions write them. `special` matters to decoding only.
Json reduced_added_tokens(Json tokens) {
  if (!tokens.is_array()) return tokens;
  for (auto& token : tokens) {
    if (token.is_object()) token.erase("special");
    reduce(token);
  }
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

Json reduced_tokenizer(const std::string& text, const std::string& where) {
  const auto parsed = parse_json(text, where);
  Json reduced = Json::object();
  for (const char* part : kParts) {
    auto value = parsed.is_object() ? parsed.value(part, Json()) : Json();
    if (part == std::string("model")) {
      reduced[part] = reduced_model(std::move(value));
    } else if (part == std::string("added_tokens")) {
      reduced[part] = reduced_added_tokens(std::move(value));
    } else {
      reduce(value);
      reduced[part] = std::move(value);
    }
  }
  return reduced;
}

std::string mismatch(const TokenMeaning& a, const TokenMeaning& b) {
  const auto part = tokenizer_difference(a.tokenizer, a.where, b.tokenizer, b.where);
  if (!part.empty()) {
    return c10::str(a.where, " and ", b.where, " have different tokenizers (", part, " differs)");
  }
  const bool compares_eos = !(a.is_model && b.is_model) && !a.eos_ids.empty() && !b.eos_ids.empty();
  const auto shared = std::any_of(a.eos_ids.begin(), a.eos_ids.end(), [&](int64_t id) {
    return std::find(b.eos_ids.begin(), b.eos_ids.end(), id) != b.eos_ids.end();
  });
  if (!compares_eos || shared) return "";
  return c10::str(a.where, " ends its texts with token ", c10::Join(" or ", a.eos_ids), ", ",
                  b.where, " with token ", c10::Join(" or ", b.eos_ids));
}

void note_unknown(const std::vector<TokenMeaning>& inputs) {
  std::vector<std::string> without;
  for (const auto& input : inputs) {
    if (input.tokenizer.empty()) without.push_back(input.where);
  }
  if (without.empty() || without.size() == inputs.size()) return;
  note(c10::str("no tokenizer is known of ", c10::Join(", ", without),
                "; whether its token ids mean the same text is not checked"));
}

}  // namespace

TokenMeaning token_meaning(const ModelFolder& model) {
  const auto& folder = model.path();
  TokenMeaning meaning{folder.string(), read_tokenizer(folder), {}, /*is_model=*/true};
  std::set<int64_t> ids;
  for (const char* file : {"generation_config.json", "config.json"}) {
    const auto json = JsonObject::find_file(folder / file);
    if (!json) continue;
    for (const int64_t id : eos_ids_of(*json)) ids.insert(id);
  }
  if (const auto id = tokenizer_eos_id(folder, meaning.tokenizer)) ids.insert(*id);
  meaning.eos_ids.assign(ids.begin(), ids.end());
  return meaning;
}

TokenMeaning token_meaning(const fs::path& token_file) {
  const auto file = Hdf5File::open(token_file);
  TokenMeaning meaning{
      token_file.string(), file.string_attribute("/", "tokenizer").value_or(""), {}};
  if (const auto eos = file.integer_attribute("/", "eos_id")) meaning.eos_ids = {*eos};
  return meaning;
}

void require_same_tokens(const std::vector<TokenMeaning>& inputs, bool allow_other_tokenizer) {
  note_unknown(inputs);
  Complaints complaints;
  for (size_t i = 0; i < inputs.size(); ++i) {
    for (size_t j = i + 1; j < inputs.size(); ++j) {
      const auto& a = inputs[i];
      const auto& b = inputs[j];
      if (a.tokenizer.empty() || b.tokenizer.empty() || a.where == b.where) continue;
      const auto problem = mismatch(a, b);
      if (problem.empty()) continue;
      complaints.add(problem);
      if (allow_other_tokenizer) warn(problem);
    }
  }
  if (allow_other_tokenizer) return;
  complaints.throw_if_any(
      "tokenizer",
      "Make the token data with the model's tokenizer, or insist with --allow-other-tokenizer (in "
      "a config: [data] allow_other_tokenizer = true).",
      ExitCode::kBadRequest);
}

std::string tokenizer_difference(const std::string& a, const std::string& where_a,
                                 const std::string& b, const std::string& where_b) {
  if (a == b) return "";
  const auto reduced_a = reduced_tokenizer(a, where_a), reduced_b = reduced_tokenizer(b, where_b);
  for (const char* part : kParts) {
    const auto &of_a = reduced_a[part], &of_b = reduced_b[part];
    if (of_a == of_b) continue;
    if (part != std::string("model") || !of_a.is_object() || !of_b.is_object()) return part;
    for (const char* field : {"type", "vocab", "merges"}) {
      if (of_a.value(field, Json()) != of_b.value(field, Json())) return c10::str("model.", field);
    }
    return part;
  }
  return "";
}

}  // namespace regroup
