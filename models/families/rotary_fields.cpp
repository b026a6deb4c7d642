#include "models/families/rotary_fields.h"

#include <c10/util/StringUtil.h>

#include <cmath>

#include "framework/errors/error.h"
#include "models/layers/rope.h"

namespace regroup {
namespace {

using Kind = RopeScaling::Kind;

constexpr const char* kOriginalContext = "original_max_position_embeddings";

/// The context of the original model: beside the RoPE object (as Phi-3's files have it), in it, or
/// the model's own.
int64_t original_max_seq_len(const JsonObject& json, const JsonObject& rope, int64_t max_seq_len) {
  const auto outside = json.find_integer(kOriginalContext, kPositive);
  const auto inside = rope.find_integer(kOriginalContext, kPositive);
  if (outside && inside && *outside != *inside)
    rope.refuse(kOriginalContext, c10::str(*outside, " as outside"));
  return outside ? *outside : inside.value_or(max_seq_len);
}

double positive(const JsonObject& rope, const char* key, double value) {
  if (!(value > 0)) rope.refuse(key, "a number above 0");
  return value;
}

double positive(const JsonObject& rope, const char* key) {
  return positive(rope, key, rope.number(key));
}

std::vector<double> positive_numbers(const JsonObject& rope, const char* key) {
  const auto& list = rope.raw(key);
  std::vector<double> numbers;
  for (const auto& value : list) {
    if (!list.is_array() || !value.is_number() || !(value.get<double>() > 0))
      rope.refuse(key, "a list of numbers above 0");
    numbers.push_back(value.get<double>());
  }
  return numbers;
}

/// How many times longer, where the object leaves it to the two contexts.
double factor_of(const JsonObject& rope, int64_t original, int64_t max_seq_len) {
  const auto stated = rope.find_number("factor");
  return stated ? positive(rope, "factor", *stated)
                : static_cast<double>(max_seq_len) / static_cast<double>(original);
}

void read_llama3(const JsonObject& rope, RopeScaling& scaling) {
  scaling.factor = positive(rope, "factor");
  scaling.low_freq_factor = rope.number("low_freq_factor");
  scaling.high_freq_factor = rope.number("high_freq_factor");
  if (scaling.high_freq_factor == scaling.low_freq_factor)
    rope.refuse("high_freq_factor", "another than low_freq_factor");
}

/// Peng et al. 2023, eq. 22: 0.1 ln(factor) + 1; the ratio of two such where DeepSeek's fields are
/// given.
double yarn_attention_factor(const JsonObject& rope, double factor) {
  const auto of_scale = [factor](double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
  };
  const double mscale = rope.find_number("mscale").value_or(0);
  const double all_dims = rope.find_number("mscale_all_dim").value_or(0);
  if (mscale != 0 && all_dims != 0) return of_scale(mscale) / of_scale(all_dims);
  return of_scale(1);
}

void read_yarn(const JsonObject& rope, int64_t max_seq_len, RopeScaling& scaling) {
  scaling.factor = factor_of(rope, scaling.original_max_seq_len, max_seq_len);
  const double by_factor = yarn_attention_factor(rope, scaling.factor);
  scaling.attention_factor =
      positive(rope, "attention_factor", rope.find_number("attention_factor").value_or(by_factor));
  const auto or_default = [&](const char* key, double otherwise) {
    const double value = rope.find_number(key).value_or(0);  // 0 is no value, as in transformers
    return value == 0 ? otherwise : positive(rope, key, value);
  };
  scaling.beta_fast = or_default("beta_fast", 32);
  scaling.beta_slow = or_default("beta_slow", 1);
  scaling.truncate = rope.find_boolean("truncate").value_or(true);
}

/// transformers' default.
double longrope_attention_factor(double factor, int64_t original) {
  return factor <= 1 ? 1
                     : std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(original)));
}

/// Ding et al. 2024.
void read_longrope(const JsonObject& rope, int64_t max_seq_len, RopeScaling& scaling) {
  const int64_t original = scaling.original_max_seq_len;
  scaling.factor = factor_of(rope, original, max_seq_len);
  scaling.short_factor = positive_numbers(rope, "short_factor");
  scaling.long_factor = positive_numbers(rope, "long_factor");
  const double by_factor = longrope_attention_factor(scaling.factor, original);
  scaling.attention_factor =
      positive(rope, "attention_factor", rope.find_number("attention_factor").value_or(by_factor));
}

RopeScaling read_scaling(const JsonObject& json, const JsonObject& rope, int64_t max_seq_len,
                         const RotaryKeys& keys) {
  const auto old_type = rope.find_string("type");
  auto type = rope.find_string("rope_type").value_or(old_type.value_or("default"));
  if (std::count(keys.longrope_types.begin(), keys.longrope_types.end(), type) > 0)
    type = "longrope";
  RopeScaling scaling;
  if (type == "default") return scaling;
  if (type == "linear" || type == "dynamic") {
    scaling.kind = type == "linear" ? Kind::kLinear : Kind::kDynamic;
    scaling.factor = positive(rope, "factor");
    return scaling;
  }
  scaling.original_max_seq_len = original_max_seq_len(json, rope, max_seq_len);
  if (type == "llama3") {
    scaling.kind = Kind::kLlama3;
    read_llama3(rope, scaling);
  } else if (type == "yarn") {
    scaling.kind = Kind::kYarn;
    read_yarn(rope, max_seq_len, scaling);
  } else if (type == "longrope") {
    scaling.kind = Kind::kLongRope;
    read_longrope(rope, max_seq_len, scaling);
  } else {
    rope.refuse(rope.has("rope_type") ? "rope_type" : "type",
                "one of default, linear, dynamic, llama3, yarn, longrope");
  }
  return scaling;
}

/// Sets what is said; throws where another value was said before.
template <typename T>
void agree(std::optional<T>& known, const std::optional<T>& said, const JsonObject& json,
           const std::string& where) {
  if (known && said && !(*known == *said)) {
    throw Error(json.where(), where + " contradicts what stands beside it about RoPE",
                "Keep one of rope_theta, rope_scaling and rope_parameters, or make them equal.");
  }
  if (said) known = said;
}

RotaryConfig read_rotary(const JsonObject& json, int64_t max_seq_len, int64_t head_dim,
                         const RotaryKeys& keys) {
  auto theta = json.find_number(keys.theta_key);
  auto share = json.find_number(keys.share_key);
  std::optional<RopeScaling> scaling;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto rope = json.find_object(key);
    if (!rope) continue;
    agree(theta, rope->find_number("rope_theta"), json, key);
    agree(share, rope->find_number("partial_rotary_factor"), json, key);
    agree(scaling, std::optional(read_scaling(json, *rope, max_seq_len, keys)), json, key);
    ConfigFields::reading(*rope).warn_of_unknown({kOriginalContext}, c10::str(key, "."));
  }
  const double rotates = share.value_or(keys.share);
  if (!(rotates > 0) || rotates > 1 || (rotates < 1 && !keys.is_partial)) {
    json.refuse(keys.share_key, keys.is_partial ? "a share above 0 and up to 1"
                                                : "1, all that this architecture computes");
  }
  return {static_cast<int64_t>(static_cast<double>(head_dim) * rotates),
          theta.value_or(RotaryConfig().theta), scaling.value_or(RopeScaling())};
}

nlohmann::ordered_json scaling_json(const RopeScaling& scaling) {
  nlohmann::ordered_json json;
  const auto add = [&](const char* key, const auto& value) { json[key] = value; };
  switch (scaling.kind) {
    case Kind::kNone:
      add("rope_type", "default");
      return json;
    case Kind::kLinear:
      add("rope_type", "linear");
      add("factor", scaling.factor);
      return json;
    case Kind::kDynamic:
      add("rope_type", "dynamic");
      add("factor", scaling.factor);
      return json;
    case Kind::kLlama3:
      add("rope_type", "llama3");
      add("factor", scaling.factor);
      add("low_freq_factor", scaling.low_freq_factor);
      add("high_freq_factor", scaling.high_freq_factor);
      break;
    case Kind::kYarn:
      add("rope_type", "yarn");
      add("factor", scaling.factor);
      add("attention_factor", scaling.attention_factor);
      add("beta_fast", scaling.beta_fast);
      add("beta_slow", scaling.beta_slow);
      add("truncate", scaling.truncate);
      break;
    case Kind::kLongRope:
      add("rope_type", "longrope");
      add("factor", scaling.factor);
      add("attention_factor", scaling.attention_factor);
      add("short_factor", scaling.short_factor);
      add("long_factor", scaling.long_factor);
      break;
  }
  add(kOriginalContext, scaling.original_max_seq_len);
  return json;
}

/// True where the two contexts say the factor, and the factor the attention factor.
bool follows_from_contexts(const RopeScaling& longrope, int64_t max_seq_len) {
  const int64_t original = longrope.original_max_seq_len;
  return longrope.factor == static_cast<double>(max_seq_len) / static_cast<double>(original) &&
         longrope.attention_factor == longrope_attention_factor(longrope.factor, original);
}

/// The share whose product with head_dim, cut to an integer, is dims.
double share_of_dims(int64_t dims, int64_t head_dim) {
  auto share = static_cast<double>(dims) / static_cast<double>(head_dim);
  while (static_cast<int64_t>(static_cast<double>(head_dim) * share) < dims)
    share = std::nextafter(share, 2.0);
  return share;
}

void write_rotary(ConfigFields& fields, const RotaryConfig& rotary, int64_t max_seq_len,
                  int64_t head_dim, const RotaryKeys& keys) {
  const double share = share_of_dims(rotary.dims, head_dim);
  auto parameters = scaling_json(rotary.scaling);
  auto scaling = parameters;
  const bool is_longrope = rotary.scaling.kind == Kind::kLongRope;
  if (is_longrope && keys.bare_longrope && follows_from_contexts(rotary.scaling, max_seq_len)) {
    scaling = {{"type", "longrope"},
               {"short_factor", rotary.scaling.short_factor},
               {"long_factor", rotary.scaling.long_factor}};
  }
  fields.write(keys.theta_key, rotary.theta);
  if (rotary.dims != head_dim || keys.share != 1) fields.write(keys.share_key, share);
  const bool scaled = rotary.scaling.kind != Kind::kNone;
  fields.write("rope_scaling", scaled ? scaling : nlohmann::ordered_json());
  parameters["rope_theta"] = rotary.theta;
  if (rotary.dims != head_dim || keys.share != 1) parameters["partial_rotary_factor"] = share;
  fields.write("rope_parameters", parameters);
  // Phi-3's class looks for it here first.
  if (is_longrope) fields.write(kOriginalContext, rotary.scaling.original_max_seq_len);
}

}  // namespace

void rotary_fields(ConfigFields& fields, int64_t max_seq_len, AttentionConfig& attention,
                   const RotaryKeys& keys) {
  if (fields.json()) {
    attention.rotary = read_rotary(*fields.json(), max_seq_len, attention.head_dim, keys);
  } else if (fields.is_writing()) {
    if (!attention.rotary) return fields.add_conflict("layers without RoPE");
    write_rotary(fields, *attention.rotary, max_seq_len, attention.head_dim, keys);
  } else if (!attention.rotary || attention.rotary->dims == attention.head_dim) {
    // A new model: rotates the architecture's share of its dims.
    auto rotary = attention.rotary.value_or(RotaryConfig());
    rotary.dims =
        2 * static_cast<int64_t>(static_cast<double>(attention.head_dim) * keys.share / 2);
    attention.rotary = rotary;
  }
}

bool are_rope_frequencies(const DecoderConfig& config, const torch::Tensor& stored) {
  const auto& rotary = config.layers[0].attention.rotary;
  if (!rotary || !stored.is_floating_point() || stored.dim() != 1 ||
      stored.size(0) != rotary->dims / 2)
    return false;
  const double rounding = stored.scalar_type() == torch::kBFloat16 ? 8e-3 : 1e-3;
  const auto agrees_with = [&](const RotaryConfig& expected) {
    return torch::allclose(stored.to(torch::kDouble), rope_frequencies(expected, 1, torch::kDouble),
                           rounding, /*atol=*/1e-7);
  };
  if (rotary->scaling.kind != Kind::kLinear) return agrees_with(*rotary);
  return agrees_with(*rotary) || agrees_with({rotary->dims, rotary->theta});
}

}  // namespace regroup
