// The attributes of Hdf5File: single integers and strings.
#include <c10/util/StringUtil.h>

#include "framework/errors/error.h"
#include "framework/files/hdf5_file.h"
#include "framework/files/hdf5_library.h"

namespace regroup {
using namespace hdf5;
namespace {

[[noreturn]] void refuse_kind(const std::string& where, const std::string& expected) {
  throw Error(where, "is not " + expected, "Write the file again.");
}

/// An attribute of one value, opened for reading.
struct Attribute {
  std::string where;  // "file: /train: attribute bytes"
  Hdf5Handle object;
  Hdf5Handle handle;
  Hdf5Handle type;

  H5T_class_t kind() const { return H5Tget_class(type.id()); }
};

Hdf5Handle open_object(hid_t file, const std::string& object, const std::string& where) {
  return {check(H5Oopen(file, object.c_str(), H5P_DEFAULT), where, "open"), H5Oclose};
}

std::optional<Attribute> find_attribute(hid_t file, const std::string& file_name,
                                        const std::string& object, const std::string& name) {
  Attribute found;
  found.object = open_object(file, object, located(file_name, object));
  if (H5Aexists(found.object.id(), name.c_str()) <= 0) return std::nullopt;
  found.where = located(file_name, c10::str(object, ": attribute ", name));
  found.handle = {check(H5Aopen(found.object.id(), name.c_str(), H5P_DEFAULT), found.where, "open"),
                  H5Aclose};
  found.type = {check(H5Aget_type(found.handle.id()), found.where, "read its type"), H5Tclose};
  const Hdf5Handle space(check(H5Aget_space(found.handle.id()), found.where, "read its shape"),
                         H5Sclose);
  if (H5Sget_simple_extent_npoints(space.id()) != 1) refuse_kind(found.where, "a single value");
  return found;
}

template <typename T>
T read_value(const Attribute& attribute, hid_t memory_type) {
  T value{};
  check(H5Aread(attribute.handle.id(), memory_type, &value), attribute.where, "read");
  return value;
}

/// The type of strings in memory and in written files: UTF-8, of any length.
Hdf5Handle string_type() {
  Hdf5Handle type(check(H5Tcopy(H5T_C_S1), "HDF5", "make a type"), H5Tclose);
  check(H5Tset_size(type.id(), H5T_VARIABLE), "HDF5", "make a type");
  check(H5Tset_cset(type.id(), H5T_CSET_UTF8), "HDF5", "make a type");
  return type;
}

std::string read_variable_string(const Attribute& attribute) {
  const auto type = string_type();
  // The character set of memory and file must agree.
  check(H5Tset_cset(type.id(), H5Tget_cset(attribute.type.id())), attribute.where, "read");
  char* text = read_value<char*>(attribute, type.id());
  if (text == nullptr) return "";
  std::string copy(text);
  H5free_memory(text);
  return copy;
}

std::string read_fixed_string(const Attribute& attribute) {
  std::string text(H5Tget_size(attribute.type.id()), '\0');
  check(H5Aread(attribute.handle.id(), attribute.type.id(), text.data()), attribute.where, "read");
  return text.substr(0, text.find('\0'));
}

void write_attribute(hid_t file, const std::string& file_name, const std::string& object,
                     const std::string& name, hid_t type, const void* value) {
  const std::string where = located(file_name, c10::str(object, ": attribute ", name));
  const auto opened = open_object(file, object, where);
  const Hdf5Handle space(check(H5Screate(H5S_SCALAR), where, "make a dataspace"), H5Sclose);
  const Hdf5Handle attribute(
      check(H5Acreate2(opened.id(), name.c_str(), type, space.id(), H5P_DEFAULT, H5P_DEFAULT),
            where, "create"),
      H5Aclose);
  check(H5Awrite(attribute.id(), type, value), where, "write");
}

}  // namespace

std::optional<int64_t> Hdf5File::integer_attribute(const std::string& object,
                                                   const std::string& name) const {
  const LibraryLock lock;
  const auto attribute = find_attribute(handle_.id(), where_, object, name);
  if (!attribute) return std::nullopt;
  if (attribute->kind() != H5T_INTEGER) refuse_kind(attribute->where, "an integer");
  return read_value<int64_t>(*attribute, H5T_NATIVE_INT64);
}

std::optional<std::string> Hdf5File::string_attribute(const std::string& object,
                                                      const std::string& name) const {
  const LibraryLock lock;
  const auto attribute = find_attribute(handle_.id(), where_, object, name);
  if (!attribute) return std::nullopt;
  if (attribute->kind() != H5T_STRING) refuse_kind(attribute->where, "a string");
  const bool variable = H5Tis_variable_str(attribute->type.id()) > 0;
  return variable ? read_variable_string(*attribute) : read_fixed_string(*attribute);
}

void Hdf5File::set_attribute(const std::string& object, const std::string& name, int64_t value) {
  const LibraryLock lock;
  write_attribute(handle_.id(), where_, object, name, H5T_NATIVE_INT64, &value);
}

void Hdf5File::set_attribute(const std::string& object, const std::string& name,
                             const std::string& value) {
  const LibraryLock lock;
  const char* text = value.c_str();
  write_attribute(handle_.id(), where_, object, name, string_type().id(), &text);
}

}  // namespace regroup
