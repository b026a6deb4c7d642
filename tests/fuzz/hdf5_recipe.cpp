#include "tests/fuzz/hdf5_recipe.h"

#include <fuzzer/FuzzedDataProvider.h>

#include <array>
#include <optional>

#include "framework/files/hdf5_library.h"

namespace regroup::fuzz {
namespace {

using namespace hdf5;

constexpr size_t kMostBytes = size_t{1} << 16;  // of a dataset's values

/// Changes one object while it is written. The input's bytes are used up in order; when none are
/// left all that follows stays as it is in the good file.
class Writer {
 public:
  Writer(const std::filesystem::path& file, std::string_view input)
      : bytes_(reinterpret_cast<const uint8_t*>(input.data()), input.size()),
        file_(made(H5Fcreate(file.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT)), H5Fclose),
        parents_(property_list(H5P_LINK_CREATE)) {
    H5Pset_create_intermediate_group(parents_.id(), 1);
  }

  void dataset(const Hdf5Recipe::Dataset& good) {
    auto values = good.values;
    switch (next_change()) {
      case Change::kNothing:
        break;
      case Change::kAbsent:
        return;
      case Change::kLink:
        H5Lcreate_soft(text().c_str(), file_.id(), good.name.c_str(), parents_.id(), H5P_DEFAULT);
        return;
      case Change::kValues:
        change(values);
        break;
      case Change::kKind:
        return other_dataset(good.name);
    }
    const std::vector<hsize_t> shape(good.shape.begin(), good.shape.end());
    const Hdf5Handle space(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr),
                           H5Sclose);
    const Hdf5Handle opened(H5Dcreate2(file_.id(), good.name.c_str(), good.type, space.id(),
                                       parents_.id(), H5P_DEFAULT, H5P_DEFAULT),
                            H5Dclose);
    H5Dwrite(opened.id(), H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  }

  void integer(const Hdf5Recipe::Integer& good) {
    const auto value = changed_value(good, [this] { return number(); });
    if (value) scalar_attribute(good.object, good.name, H5T_NATIVE_INT64, &*value);
  }

  void text(const Hdf5Recipe::Text& good) {
    const auto value = changed_value(good, [this] { return text(); });
    if (!value) return;
    const Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type.id(), H5T_VARIABLE);
    const char* pointer = value->c_str();
    scalar_attribute(good.object, good.name, type.id(), &pointer);
  }

  /// Groups and links that no reader asks for.
  void strangers() {
    while (bytes_.remaining_bytes() > 4) {
      const auto name = "/" + text();
      if (H5Lexists(file_.id(), name.c_str(), H5P_DEFAULT) > 0) continue;
      const auto kind = bytes_.ConsumeIntegralInRange(0, 3);
      if (kind == 0) other_dataset(name);
      if (kind == 1) other_dataset(name + "/tokens");
      if (kind == 2) H5Lcreate_soft("/train", file_.id(), name.c_str(), parents_.id(), H5P_DEFAULT);
      if (kind == 3)
        H5Lcreate_external("/dev/null", "/", file_.id(), name.c_str(), parents_.id(), H5P_DEFAULT);
    }
  }

 private:
  enum class Change { kNothing, kAbsent, kLink, kValues, kKind };

  static hid_t made(hid_t file) {
    if (file < 0) fail("HDF5", "create a file for fuzzing");
    return file;
  }

  Change next_change() {
    const int byte = bytes_.ConsumeIntegral<uint8_t>();
    if (byte < 160) return Change::kNothing;
    if (byte < 216) return Change::kValues;
    if (byte < 248) return Change::kKind;
    return byte < 252 ? Change::kAbsent : Change::kLink;
  }

  /// The value of an attribute; nullopt where it is left out, or something else was written for it.
  template <typename Good>
  auto changed_value(const Good& good, auto&& other_value) -> std::optional<decltype(Good::value)> {
    switch (next_change()) {
      case Change::kNothing:
        return good.value;
      case Change::kValues:
        return other_value();
      case Change::kAbsent:
        return std::nullopt;
      case Change::kLink:
      case Change::kKind:
        other_attribute(good.object, good.name);
    }
    return std::nullopt;
  }

  int64_t number() {
    const int byte = bytes_.ConsumeIntegral<uint8_t>();
    if (byte < 200) return byte % 20;
    return byte < 220 ? -(byte % 20) : bytes_.ConsumeIntegral<int64_t>();
  }

  std::string text() { return bytes_.ConsumeRandomLengthString(64); }

  void change(std::vector<int64_t>& values) {
    const int count = bytes_.ConsumeIntegralInRange(1, 4);
    for (int i = 0; i < count && !values.empty(); ++i) {
      const auto place = bytes_.ConsumeIntegralInRange<size_t>(0, values.size() - 1);
      values[place] = number();
    }
  }

  /// A type of any kind; the caller closes it.
  Hdf5Handle any_type() {
    const std::array<hid_t, 18> plain{
        H5T_STD_U8LE,   H5T_STD_I8LE,    H5T_STD_U16LE,     H5T_STD_U16BE,  H5T_STD_I16LE,
        H5T_STD_U32LE,  H5T_STD_U32BE,   H5T_STD_I32LE,     H5T_STD_U64LE,  H5T_STD_U64BE,
        H5T_STD_I64LE,  H5T_STD_I64BE,   H5T_IEEE_F32LE,    H5T_IEEE_F32BE, H5T_IEEE_F64LE,
        H5T_NATIVE_B16, H5T_STD_REF_OBJ, H5T_NATIVE_LDOUBLE};
    const auto kind = bytes_.ConsumeIntegralInRange<size_t>(0, plain.size() + 6);
    if (kind < plain.size()) return {H5Tcopy(plain[kind]), H5Tclose};
    const auto size = bytes_.ConsumeIntegralInRange<size_t>(1, 64);
    switch (kind - plain.size()) {
      case 0:
        return {H5Tcreate(H5T_OPAQUE, size), H5Tclose};
      case 1: {
        Hdf5Handle type(H5Tcreate(H5T_COMPOUND, size + 8), H5Tclose);
        H5Tinsert(type.id(), "r", 0, H5T_NATIVE_FLOAT);
        return type;
      }
      case 2:
        return {H5Tvlen_create(H5T_NATIVE_UINT16), H5Tclose};
      case 3: {
        const hsize_t length = size;
        return {H5Tarray_create2(H5T_NATIVE_UINT16, 1, &length), H5Tclose};
      }
      case 4:
        return {H5Tenum_create(H5T_NATIVE_INT64), H5Tclose};
      case 5: {
        Hdf5Handle type(H5Tcopy(H5T_STD_U64LE), H5Tclose);  // of fewer bits than its bytes hold
        H5Tset_precision(type.id(), size % 64 + 1);
        return type;
      }
      default: {
        Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
        H5Tset_size(type.id(), bytes_.ConsumeBool() ? H5T_VARIABLE : size);
        H5Tset_cset(type.id(), bytes_.ConsumeBool() ? H5T_CSET_UTF8 : H5T_CSET_ASCII);
        return type;
      }
    }
  }

  std::vector<hsize_t> any_shape() {
    std::vector<hsize_t> shape(bytes_.ConsumeIntegralInRange<size_t>(0, 3));
    for (auto& size : shape) {
      const bool is_large = bytes_.ConsumeIntegral<uint8_t>() > 250;
      size = is_large ? bytes_.ConsumeIntegral<uint64_t>() : bytes_.ConsumeIntegralInRange(0, 12);
    }
    return shape;
  }

  static Hdf5Handle space_of(const std::vector<hsize_t>& shape) {
    if (shape.empty()) return {H5Screate(H5S_SCALAR), H5Sclose};
    return {H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr), H5Sclose};
  }

  /// How a dataset's bytes lie in the file.
  Hdf5Handle any_storage(const std::vector<hsize_t>& shape) {
    auto storage = property_list(H5P_DATASET_CREATE);
    const auto kind = bytes_.ConsumeIntegralInRange(0, 5);
    if (kind == 1) H5Pset_layout(storage.id(), H5D_COMPACT);
    if (kind == 4) H5Pset_external(storage.id(), "/dev/zero", 0, H5F_UNLIMITED);
    if ((kind == 2 || kind == 3) && !shape.empty()) {
      std::vector<hsize_t> chunk(shape.size());
      for (auto& size : chunk) size = bytes_.ConsumeIntegralInRange(1, 8);
      H5Pset_chunk(storage.id(), static_cast<int>(chunk.size()), chunk.data());
      if (kind == 3) H5Pset_deflate(storage.id(), 1);
    }
    return storage;
  }

  void other_dataset(const std::string& name) {
    const auto type = any_type();
    const auto shape = any_shape();
    const auto space = space_of(shape);
    const auto storage = any_storage(shape);
    const Hdf5Handle opened(H5Dcreate2(file_.id(), name.c_str(), type.id(), space.id(),
                                       parents_.id(), storage.id(), H5P_DEFAULT),
                            H5Dclose);
    if (opened.id() < 0) return;
    if (bytes_.ConsumeBool()) {
      const std::string dtype = bytes_.ConsumeBool() ? "bfloat16" : "bool";
      const Hdf5Handle words(H5Tcopy(H5T_C_S1), H5Tclose);
      H5Tset_size(words.id(), dtype.size());
      scalar_attribute(name, "torch_dtype", words.id(), dtype.data());
    }
    write_bytes(opened, type, space);
  }

  /// Values of types whose bytes are no pointers, and that are few.
  void write_bytes(const Hdf5Handle& opened, const Hdf5Handle& type, const Hdf5Handle& space) {
    const auto kind = H5Tget_class(type.id());
    const auto count = H5Sget_simple_extent_npoints(space.id());
    const bool has_pointers = kind == H5T_VLEN || H5Tis_variable_str(type.id()) > 0;
    if (has_pointers || count < 0 || static_cast<size_t>(count) > kMostBytes / 128) return;
    auto values = bytes_.ConsumeBytes<uint8_t>(bytes_.ConsumeIntegralInRange<size_t>(0, 64));
    values.resize(static_cast<size_t>(count) * H5Tget_size(type.id()) + 1);
    H5Dwrite(opened.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  }

  void other_attribute(const std::string& object, const std::string& name) {
    const auto type = any_type();
    const auto shape = any_shape();
    const auto space =
        bytes_.ConsumeBool() ? space_of(shape) : Hdf5Handle(H5Screate(H5S_NULL), H5Sclose);
    std::vector<uint8_t> values(kMostBytes);
    const auto count = H5Sget_simple_extent_npoints(space.id());
    const bool fits = count >= 0 && static_cast<size_t>(count) < kMostBytes / 128;
    attribute(object, name, type.id(), space, fits ? values.data() : nullptr);
  }

  void scalar_attribute(const std::string& object, const std::string& name, hid_t type,
                        const void* value) {
    attribute(object, name, type, Hdf5Handle(H5Screate(H5S_SCALAR), H5Sclose), value);
  }

  /// Writes what a null pointer does not forbid; on a group or dataset that may not be there.
  void attribute(const std::string& object, const std::string& name, hid_t type,
                 const Hdf5Handle& space, const void* value) {
    const Hdf5Handle owner(H5Oopen(file_.id(), object.c_str(), H5P_DEFAULT), H5Oclose);
    if (owner.id() < 0) return;
    const Hdf5Handle opened(
        H5Acreate2(owner.id(), name.c_str(), type, space.id(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    if (opened.id() >= 0 && value != nullptr) H5Awrite(opened.id(), type, value);
  }

  FuzzedDataProvider bytes_;
  Hdf5Handle file_;
  Hdf5Handle parents_;
};

}  // namespace

void Hdf5Recipe::write(const std::filesystem::path& file, std::string_view input) const {
  const LibraryLock lock;
  Writer writer(file, input);
  for (const auto& good : datasets) writer.dataset(good);
  for (const auto& good : integers) writer.integer(good);
  for (const auto& good : texts) writer.text(good);
  writer.strangers();
}

}  // namespace regroup::fuzz
