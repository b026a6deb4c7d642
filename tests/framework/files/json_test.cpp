#include "framework/files/json.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"

namespace regroup {
namespace {

JsonObject object_of(const std::string& text) {
  return {parse_json(text, "config.json"), "config.json"};
}

TEST_CASE("a JSON object gives values by type", "[json]") {
  const auto object = object_of(
      R"({"n": -3, "x": 1e-5, "whole": 2, "b": true, "s": "ä", "list": [1, 2], "names": ["a"], "in": {"k": 7}})");
  CHECK(object.integer("n") == -3);
  CHECK(object.number("x") == 1e-5);
  CHECK(object.number("whole") == 2.0);
  CHECK(object.boolean("b"));
  CHECK(object.string("s") == "ä");
  CHECK(object.integers("list") == std::vector<int64_t>{1, 2});
  CHECK(object.strings("names") == std::vector<std::string>{"a"});
  CHECK(object.object("in").integer("k") == 7);
}

TEST_CASE("a null or absent JSON key is read as nullopt", "[json]") {
  const auto object = object_of(R"({"head_dim": null, "n": 4})");
  CHECK_FALSE(object.has("head_dim"));
  CHECK_FALSE(object.find_integer("head_dim").has_value());
  CHECK_FALSE(object.find_object("rope_parameters").has_value());
  CHECK(object.find_integer("n") == 4);
  CHECK_THROWS_WITH(object.integer("head_dim"), Contains("config.json: head_dim is null"));
  CHECK_THROWS_WITH(object.integer("absent"), Contains("config.json: absent is missing"));
}

TEST_CASE("a JSON value of the wrong type is an error with file and key and value", "[json]") {
  const auto object = object_of(
      R"({"n": "x", "f": 2.5, "r": {"theta": "y"}, "list": [1, "2"], "b": 1, "o": [], "big": 18446744073709551615})");
  CHECK_THROWS_WITH(object.integer("n"), "config.json: n is \"x\", expected an integer");
  CHECK_THROWS_WITH(object.integer("f"), "config.json: f is 2.5, expected an integer");
  CHECK_THROWS_WITH(object.object("r").number("theta"),
                    "config.json: r.theta is \"y\", expected a number");
  CHECK_THROWS_WITH(object.integers("list"), "config.json: list[1] is \"2\", expected an integer");
  CHECK_THROWS_WITH(object.boolean("b"), "config.json: b is 1, expected true or false");
  CHECK_THROWS_WITH(object.object("o"), "config.json: o is [], expected an object");
  CHECK_THROWS_WITH(object.integer("big"), Contains("18446744073709551615"));
}

TEST_CASE("JSON integers are checked against their range", "[json]") {
  const auto object = object_of(R"({"n": 0, "m": 9, "list": [1, 70]})");
  CHECK_THROWS_WITH(object.integer("n", {.min = 1}),
                    Contains("n is 0, expected an integer of at least 1"));
  const IntegerRange range{.min = 1, .max = 8};
  CHECK_THROWS_WITH(object.integer("m", range),
                    Contains("m is 9, expected an integer from 1 to 8"));
  CHECK_THROWS_WITH(object.integers("list", {.max = 64}), Contains("list[1] is 70"));
  CHECK(object.integer("m", {.min = 9, .max = 9}) == 9);
}

TEST_CASE("the unread keys of a JSON object are listed", "[json]") {
  const auto object = object_of(R"({"zeta": 1, "read": 2, "asked": 3, "alpha": 4})");
  object.integer("read");
  object.has("asked");
  CHECK(object.unread_keys() == std::vector<std::string>{"alpha", "zeta"});
}

TEST_CASE("broken JSON is an error that says where it breaks", "[json]") {
  CHECK_THROWS_WITH(parse_json("{\"a\": 1,\n \"b\": }", "f.json"),
                    Contains("f.json: is not valid JSON") && Contains("line 2"));
  CHECK_THROWS_AS(parse_json("", "f.json"), Error);
  CHECK_THROWS_AS(parse_json("{} x", "f.json"), Error);
  CHECK_THROWS_AS(parse_json("{\"a\": 1e999}", "f.json"), Error);
  CHECK_THROWS_AS(parse_json("{\"a\": NaN}", "f.json"), Error);
  CHECK_THROWS_AS(parse_json("\"\xff\xfe\"", "f.json"), Error);
  CHECK_THROWS_AS(parse_json(std::string("{\"a\": 1\0}", 9), "f.json"), Error);
}

TEST_CASE("a message about broken JSON stays short", "[json]") {
  const std::string long_word(100'000, 'q');
  try {
    parse_json("{\"a\": \"" + long_word, "f.json");
    FAIL("it parsed");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).size() < 500);
  }
}

TEST_CASE("JSON nested too deeply is refused before it is built", "[json]") {
  const size_t depth = 1'000'000;
  CHECK_THROWS_WITH(parse_json(std::string(depth, '['), "deep.json"),
                    Contains("deep.json") && Contains("deeper than 64"));
  std::string objects;
  for (size_t i = 0; i < depth; ++i) objects += "{\"a\":";
  CHECK_THROWS_WITH(parse_json(objects, "deep.json"), Contains("deeper than 64"));
  const std::string just_deep_enough = std::string(64, '[') + std::string(64, ']');
  CHECK_NOTHROW(parse_json(just_deep_enough, "f.json"));
}

TEST_CASE("JSON larger than the limit is refused with both sizes", "[json]") {
  const JsonLimits limits{.max_bytes = 10};
  CHECK_THROWS_WITH(parse_json("[1, 2, 3, 4]", "big.json", limits),
                    Contains("12 bytes") && Contains("limit is 10"));
}

TEST_CASE("a repeated key in a JSON object is an error", "[json]") {
  CHECK_THROWS_WITH(parse_json(R"({"a": 1, "b": {"c": 1, "c": 2}})", "f.json"),
                    Contains("the key \"c\" stands twice"));
  CHECK_NOTHROW(parse_json(R"([{"a": 1}, {"a": {"a": 2}}])", "f.json"));
}

TEST_CASE("a JSON document that is not an object is refused as one", "[json]") {
  CHECK_THROWS_WITH(object_of("[1]"), Contains("config.json: holds [1], expected a JSON object"));
}

TEST_CASE("JSON files read back exactly what was written", "[json]") {
  const testing::TempFolder folder;
  const auto file = folder.path() / "out.json";
  nlohmann::ordered_json value;
  value["zeta"] = 0.1f + 1e-9;
  value["alpha"] = {1, 2, 3};
  value["text"] = "a \"quoted\" ä";
  write_json_file(file, value);
  CHECK(nlohmann::ordered_json(read_json_file(file)) ==
        nlohmann::ordered_json(nlohmann::json(value)));
  std::ifstream in(file);
  std::string first_line;
  std::string second_line;
  std::getline(in, first_line);
  std::getline(in, second_line);
  CHECK_THAT(second_line, Contains("  \"zeta\""));
}

TEST_CASE("a missing JSON file is named", "[json]") {
  CHECK_THROWS_WITH(JsonObject::from_file("/nonexistent/config.json"),
                    Contains("/nonexistent/config.json") && Contains("No such file"));
}

}  // namespace
}  // namespace regroup
