#include "framework/files/safetensors.h"

#include <ATen/ATen.h>

#include <cstdint>

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"
#include "tests/support/safetensors_forge.h"
#include "tests/support/temp_folder.h"

namespace regroup {
namespace {

using testing::contents_of;
using testing::forged;
using testing::TempFolder;

const std::string kZeros(1000, '\0');

/// Opens a file with the given header and n bytes of data.
SafetensorsFile open_forged(const TempFolder& folder, const std::string& header, size_t n_data) {
  return SafetensorsFile::open(
      folder.write("model.safetensors", forged(header, kZeros.substr(0, n_data))));
}

std::string one_tensor(const std::string& fields) { return "{\"w\":{" + fields + "}}"; }

TEST_CASE("a safetensors file reads back exactly in every dtype", "[safetensors]") {
  const TempFolder folder;
  const auto dtype = GENERATE(at::kBool, at::kByte, at::kShort, at::kInt, at::kLong, at::kHalf,
                              at::kBFloat16, at::kFloat, at::kDouble);
  const auto tensor = at::arange(-3, 3, at::kFloat).reshape({2, 3}).abs().to(dtype);
  const auto scalar = at::scalar_tensor(1.0, at::kDouble).to(dtype);
  const auto empty = at::empty({0, 4}, dtype);
  const auto file = folder / "model.safetensors";
  write_safetensors(file, {tensor_source("w", tensor), tensor_source("scalar", scalar),
                           tensor_source("empty", empty)});
  const auto opened = SafetensorsFile::open(file);
  CHECK(opened.entries().size() == 3);
  CHECK_THAT(opened.tensor("w"), AllClose(tensor));
  CHECK_THAT(opened.tensor("scalar"), AllClose(scalar));
  CHECK_THAT(opened.tensor("empty"), AllClose(empty));
}

TEST_CASE("a file of the safetensors Python package is read", "[safetensors][golden]") {
  // safetensors.torch.save of five tensors, whole: header and data.
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"scalar":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
      R"("b.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]},)"
      R"("a":{"dtype":"BF16","shape":[3],"data_offsets":[32,38]},)"
      R"("empty":{"dtype":"F16","shape":[0,4],"data_offsets":[38,38]},)"
      R"("flags":{"dtype":"BOOL","shape":[3],"data_offsets":[38,41]}}       )";
  const std::string data = testing::from_hex(
      "0700000000000000000020c00000c0bf000000bf0000003f0000c03f00002040c03f00c00000010001");
  const TempFolder folder;
  const auto file = SafetensorsFile::open(folder.write("golden.safetensors", forged(header, data)));
  CHECK(file.entries().size() == 5);
  CHECK(file.tensor("scalar").item<int64_t>() == 7);
  CHECK_THAT(file.tensor("b.weight"), AllClose(at::arange(6, at::kFloat).reshape({2, 3}) - 2.5));
  CHECK_THAT(file.tensor("a"), AllClose(at::tensor({1.5, -2.0, 0.0}).to(at::kBFloat16)));
  CHECK(file.tensor("empty").sizes() == std::vector<int64_t>{0, 4});
  CHECK_THAT(file.tensor("flags"), AllClose(at::tensor({1, 0, 1}).to(at::kBool)));
}

TEST_CASE("a written safetensors file has the bytes that the format prescribes", "[safetensors]") {
  const TempFolder folder;
  write_safetensors(folder / "m.safetensors",
                    {tensor_source("a", at::tensor({1.5, -2.0, 0.0}).to(at::kBFloat16)),
                     tensor_source("w", at::arange(2, at::kFloat).reshape({2, 1}))});
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]}})";
  const std::string padded = header + std::string(7 - (header.size() + 7) % 8, ' ');
  CHECK(contents_of(folder / "m.safetensors") ==
        forged(padded, testing::from_hex("000000000000803fc03f00c00000")));
}

TEST_CASE("a safetensors header with a flipped bit is read or refused", "[safetensors]") {
  const TempFolder folder;
  const auto path = folder / "m.safetensors";
  write_safetensors(path,
                    {tensor_source("a", at::ones({2, 3})), tensor_source("b", at::ones({5}))});
  const auto whole = contents_of(path);
  const size_t data_begin = whole.size() - 44;
  int n_refused = 0;
  for (size_t bit = 0; bit < data_begin * 8; bit += 5) {
    auto damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    folder.write("m.safetensors", damaged);
    try {
      const auto file = SafetensorsFile::open(path);
      for (const auto& [name, entry] : file.entries()) file.tensor(name).sum();
    } catch (const Error&) {
      ++n_refused;
    }
  }
  CHECK(n_refused > static_cast<int>(data_begin) / 2);
}

TEST_CASE("a tensor outlives the safetensors file object it came from", "[safetensors]") {
  const TempFolder folder;
  const auto expected = at::arange(12, at::kFloat);
  write_safetensors(folder / "m.safetensors", {tensor_source("w", expected)});
  at::Tensor tensor;
  { tensor = SafetensorsFile::open(folder / "m.safetensors").tensor("w"); }
  CHECK_THAT(tensor, AllClose(expected));
}

TEST_CASE("writing to a loaded tensor does not change the safetensors file", "[safetensors]") {
  const TempFolder folder;
  const auto path = folder / "m.safetensors";
  write_safetensors(path, {tensor_source("w", at::zeros({8}))});
  const auto before = contents_of(path);
  const auto opened = SafetensorsFile::open(path);
  opened.tensor("w").fill_(3);
  CHECK(contents_of(path) == before);
}

TEST_CASE("a tensor that is unaligned in its safetensors file is copied", "[safetensors]") {
  const TempFolder folder;
  const std::string header =
      R"({"odd":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"w":{"dtype":"I32","shape":[2],"data_offsets":[3,11]}})";
  const auto file = SafetensorsFile::open(
      folder.write("m.safetensors", forged(header, testing::from_hex("0102030400000005000000"))));
  const auto tensor = file.tensor("w");
  CHECK(reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 4 == 0);
  CHECK_THAT(tensor, AllClose(at::tensor({4, 5}, at::kInt)));
}

TEST_CASE("a safetensors writer aligns data and loads one tensor at a time", "[safetensors]") {
  const TempFolder folder;
  int alive = 0;
  int most_alive = 0;
  const auto source = [&](const std::string& name, c10::ScalarType dtype, int64_t n) {
    return TensorSource{name, dtype, {n}, [&, dtype, n] {
                          most_alive = std::max(most_alive, ++alive);
                          auto storage = at::ones({n}, dtype);
                          return at::from_blob(
                              storage.data_ptr(), {n}, [&alive, storage](void*) { --alive; },
                              at::TensorOptions().dtype(dtype));
                        }};
  };
  write_safetensors(
      folder / "m.safetensors",
      {source("half", at::kHalf, 3), source("long", at::kLong, 2), source("float", at::kFloat, 5)});
  CHECK(most_alive == 1);
  const auto opened = SafetensorsFile::open(folder / "m.safetensors");
  for (const auto& [name, entry] : opened.entries()) {
    CHECK(entry.begin % c10::elementSize(entry.dtype) == 0);
  }
}

TEST_CASE("a safetensors writer that fails leaves the old file", "[safetensors]") {
  const TempFolder folder;
  const auto path = folder / "m.safetensors";
  write_safetensors(path, {tensor_source("w", at::ones({2}))});
  const auto before = contents_of(path);
  const TensorSource broken{
      "w", at::kFloat, {2}, []() -> at::Tensor { throw Error("w", "cannot be made", ""); }};
  CHECK_THROWS_AS(write_safetensors(path, {broken}), Error);
  CHECK(contents_of(path) == before);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("a safetensors header longer than its file is refused with both numbers",
          "[safetensors]") {
  const TempFolder folder;
  const std::string length = testing::little_endian(1000);
  CHECK_THROWS_WITH(
      SafetensorsFile::open(folder.write("m.safetensors", length + "{}")),
      Contains("m.safetensors") && Contains("claims 1000 bytes") && Contains("but 2"));
  CHECK_THROWS_WITH(SafetensorsFile::open(
                        folder.write("m.safetensors", testing::little_endian(UINT64_MAX) + "{}")),
                    Contains("claims 18446744073709551615 bytes"));
  CHECK_THROWS_WITH(SafetensorsFile::open(folder.write("m.safetensors", "1234567")),
                    Contains("has 7 bytes"));
  CHECK_THROWS_WITH(SafetensorsFile::open(folder.write("m.safetensors", "")),
                    Contains("has 0 bytes"));
}

TEST_CASE("a truncated safetensors file is refused with both sizes", "[safetensors]") {
  const TempFolder folder;
  const auto path = folder / "m.safetensors";
  write_safetensors(path, {tensor_source("w", at::zeros({100}))});
  const auto whole = contents_of(path);
  folder.write("m.safetensors", whole.substr(0, whole.size() - 1));
  CHECK_THROWS_WITH(SafetensorsFile::open(path),
                    Contains("tensor w") && Contains("[0, 400]") && Contains("399 bytes of data"));
}

TEST_CASE("a safetensors header that is not an object of tensors is refused", "[safetensors]") {
  const TempFolder folder;
  CHECK_THROWS_WITH(open_forged(folder, "[1]", 0), Contains("not a JSON object"));
  CHECK_THROWS_WITH(open_forged(folder, "{\"w\":3}", 0), Contains("tensor w"));
  CHECK_THROWS_WITH(open_forged(folder, "{\"w\":", 0), Contains("not valid JSON"));
  CHECK_THROWS_WITH(open_forged(folder, "{\"__metadata__\":[1]}", 0), Contains("__metadata__"));
  CHECK_THROWS_WITH(open_forged(folder, "{\"__metadata__\":{\"a\":1}}", 0),
                    Contains("__metadata__ a is not a string"));
  CHECK_THROWS_WITH(open_forged(folder, std::string(50, '['), 0), Contains("nested deeper than"));
}

TEST_CASE("an unknown safetensors dtype is refused and the known ones are listed",
          "[safetensors]") {
  const TempFolder folder;
  const auto header = one_tensor(R"("dtype":"F33","shape":[1],"data_offsets":[0,4])");
  CHECK_THROWS_WITH(open_forged(folder, header, 4),
                    Contains("tensor w") && Contains("\"F33\"") && Contains("BF16"));
}

TEST_CASE("a missing or superfluous field of a safetensors entry is named", "[safetensors]") {
  const TempFolder folder;
  CHECK_THROWS_WITH(open_forged(folder, one_tensor(R"("dtype":"U8","shape":[1])"), 1),
                    Contains("data_offsets is missing"));
  CHECK_THROWS_WITH(open_forged(folder, one_tensor(R"("dtype":"U8","data_offsets":[0,1])"), 1),
                    Contains("shape is missing"));
  CHECK_THROWS_WITH(
      open_forged(folder, one_tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1)"), 1),
      Contains("only dtype"));
}

TEST_CASE("a wrong safetensors shape is refused with the bytes that it needs", "[safetensors]") {
  const TempFolder folder;
  const auto with_shape = [&](const std::string& shape) {
    return one_tensor(R"("dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,24])");
  };
  CHECK_THROWS_WITH(open_forged(folder, with_shape("[2,4]"), 24),
                    Contains("hold 24 bytes") && Contains("[2, 4] need 32"));
  CHECK_THROWS_WITH(open_forged(folder, with_shape("[-2,-3]"), 24), Contains("shape[0] is -2"));
  CHECK_THROWS_WITH(open_forged(folder, with_shape("[4611686018427387904,4]"), 24),
                    Contains("more than 2^63"));
  CHECK_THROWS_WITH(open_forged(folder, with_shape("[2.0,3]"), 24), Contains("shape[0] is 2.0"));
  CHECK_THROWS_WITH(open_forged(folder, with_shape("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,6]"), 24),
                    Contains("at most 16 axes"));
  const auto huge_but_empty =
      one_tensor(R"("dtype":"F32","shape":[4611686018427387904,8,0],"data_offsets":[0,0])");
  CHECK_THROWS_WITH(open_forged(folder, huge_but_empty, 0), Contains("more than 2^63"));
}

TEST_CASE("wrong safetensors offsets are refused with their numbers", "[safetensors]") {
  const TempFolder folder;
  const auto with_offsets = [&](const std::string& offsets) {
    return one_tensor(R"("dtype":"U8","shape":[4],"data_offsets":)" + offsets);
  };
  CHECK_THROWS_WITH(open_forged(folder, with_offsets("[4,0]"), 4),
                    Contains("[4, 0] run backwards"));
  CHECK_THROWS_WITH(open_forged(folder, with_offsets("[1,5]"), 4),
                    Contains("[1, 5]") && Contains("4 bytes of data"));
  CHECK_THROWS_WITH(open_forged(folder, with_offsets("[0,9223372036854775807]"), 4),
                    Contains("9223372036854775807"));
  CHECK_THROWS_WITH(open_forged(folder, with_offsets("[0,18446744073709551615]"), 4),
                    Contains("data_offsets[1] is 18446744073709551615"));
  CHECK_THROWS_WITH(open_forged(folder, with_offsets("[-1,3]"), 4),
                    Contains("data_offsets[0] is -1"));
  CHECK_THROWS_WITH(open_forged(folder, with_offsets("[0,2,4]"), 4), Contains("two integers"));
  CHECK_THROWS_WITH(open_forged(folder, with_offsets("[0,4]"), 6),
                    Contains("end at byte 4 of 6 bytes"));
}

TEST_CASE("safetensors with overlaps or holes or repeated names are refused", "[safetensors]") {
  const TempFolder folder;
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  CHECK_NOTHROW(open_forged(folder, two("[4,8]", "[0,4]"), 8));
  CHECK_THROWS_WITH(open_forged(folder, two("[0,4]", "[2,6]"), 6),
                    Contains("tensor b") && Contains("at byte 2, inside"));
  CHECK_THROWS_WITH(open_forged(folder, two("[0,4]", "[0,4]"), 4), Contains("tensor b"));
  CHECK_THROWS_WITH(open_forged(folder, two("[0,4]", "[5,9]"), 9),
                    Contains("at byte 5, with a hole"));
  const std::string entry = R"("w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  CHECK_THROWS_WITH(open_forged(folder, "{" + entry + "," + entry + "}", 1),
                    Contains("\"w\" stands twice"));
}

TEST_CASE("all broken tensors of a safetensors file are reported at once", "[safetensors]") {
  const TempFolder folder;
  std::string header = "{";
  for (int i = 0; i < 9; ++i) {
    header +=
        c10::str(i > 0 ? "," : "", "\"t", i, R"(":{"dtype":"X","shape":[],"data_offsets":[0,0]})");
  }
  CHECK_THROWS_WITH(open_forged(folder, header + "}", 0),
                    Contains("9 problems") && Contains("tensor t0") && Contains("and 4 more"));
}

TEST_CASE("a folder or a missing path is refused as a safetensors file", "[safetensors]") {
  const TempFolder folder;
  CHECK_THROWS_WITH(SafetensorsFile::open(folder.path()), Contains("not a regular file"));
  CHECK_THROWS_WITH(SafetensorsFile::open(folder / "absent"), Contains("No such file"));
}

}  // namespace
}  // namespace regroup
